"""Asks a model folder with transformers: `python -P ask_transformers.py JOB.json`.

JOB: path (folder), messages, answer_ids (the answer to measure, or null for its own), max_tokens, result.
Result: prompt_ids, end_ids, answer, answer_ids, ended, logprob (mean of the answer measured), stops.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, by the lines below

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def ask(job: dict[str, Any]) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(job["path"])
    model: Any = AutoModelForCausalLM.from_pretrained(job["path"], dtype="auto")
    model = model.to(device).eval()
    if device == "cpu":
        model = model.float()  # many processors compute slowly in bfloat16
    rendered = tokenizer.apply_chat_template(job["messages"], add_generation_prompt=True, return_dict=True)
    prompt = list(rendered["input_ids"])
    end = model.generation_config.eos_token_id
    end_ids = end if isinstance(end, list) else [] if end is None else [end]
    inputs = torch.tensor([prompt], device=device)
    generated = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        repetition_penalty=1.0,
        max_new_tokens=job["max_tokens"],
        pad_token_id=end_ids[0] if end_ids else 0,
    )
    own = generated[0, len(prompt) :].tolist()
    measured = own if job["answer_ids"] is None else job["answer_ids"]
    logprob, likeliest = _measure(model, prompt, measured, device)
    return {
        "prompt_ids": prompt,
        "end_ids": end_ids,
        "answer": tokenizer.decode(own, skip_special_tokens=True),
        "answer_ids": own,
        "ended": bool(own) and own[-1] in end_ids,
        "logprob": logprob,
        "stops": likeliest in end_ids if measured and measured[-1] in end_ids else None,
    }


def _measure(model: Any, prompt: list[int], answer: list[int], device: str) -> tuple[float, int]:
    """The mean log-probability of the answer's tokens, and the likeliest token in place of its last one."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer], device=device)).logits[0].float()
    before = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    chosen = before.gather(1, torch.tensor(answer, device=device)[:, None])
    return float(chosen.mean()), int(before[-1].argmax())


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_bytes())
    Path(given["result"]).write_text(json.dumps(ask(given)))
