"""Asks an ONNX folder with onnxruntime-genai: `python -P ask_onnxruntime.py JOB.json`.

JOB and result are those of ask_transformers.py; answer_ids is required.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


def ask(job: dict[str, Any]) -> dict[str, Any]:
    model = og.Model(job["path"])
    tokenizer = og.Tokenizer(model)
    text = tokenizer.apply_chat_template(json.dumps(job["messages"]), add_generation_prompt=True)
    prompt = [int(token) for token in tokenizer.encode(text)]
    logprobs, likeliest = _measure(model, job["prompt_ids"], job["answer_ids"], job["max_tokens"])
    own, ended = _generate(model, prompt, job["max_tokens"])
    end_ids = {int(token) for token in np.atleast_1d(tokenizer.eos_token_ids)}
    return {
        "prompt_ids": prompt,
        "end_ids": sorted(end_ids),
        "answer": tokenizer.decode(np.array([token for token in own if token not in end_ids], np.int32)),
        "ended": ended,
        "logprob": float(np.mean(logprobs)),
        "stops": likeliest in end_ids if job["answer_ended"] else None,
    }


def _generator(model: Any, prompt: list[int], max_tokens: int) -> Any:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(prompt) + max_tokens + 1)
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    return generator


def _measure(model: Any, prompt: list[int], answer: list[int], max_tokens: int) -> tuple[list[float], int]:
    """The log-probability of each token of the answer, and the likeliest token in place of its last one."""
    generator = _generator(model, prompt, max_tokens)
    logprobs = []
    likeliest = -1
    for token in answer:
        logits = np.asarray(generator.get_logits(), np.float64).reshape(-1)
        logprobs.append(float(logits[token] - np.logaddexp.reduce(logits)))
        likeliest = int(logits.argmax())
        generator.append_tokens(np.array([[token]], np.int32))
    return logprobs, likeliest


def _generate(model: Any, prompt: list[int], max_tokens: int) -> tuple[list[int], bool]:
    generator = _generator(model, prompt, max_tokens)
    own: list[int] = []
    while not generator.is_done() and len(own) < max_tokens:
        generator.generate_next_token()
        own.append(int(generator.get_next_tokens()[0]))
    return own, bool(generator.is_done())


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_bytes())
    Path(given["result"]).write_text(json.dumps(ask(given)))
