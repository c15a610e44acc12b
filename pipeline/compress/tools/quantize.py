"""Quantizes a model folder with llm-compressor: `python -P quantize.py JOB.json`.

JOB: model, out (folders), scheme, calibration (JSONL of dialogues, or null), max_length, group_size (or
null), result (JSON file to write). Tokenizer and generation config are copied by the stage.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, by the lines below

from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

GROUP_SIZES = (128, 64, 32)
PRESETS = {"fp8": "FP8_DYNAMIC", "nvfp4": "NVFP4"}


def quantize(job: dict[str, Any]) -> dict[str, int | None]:
    """Writes the quantized model; returns how many examples and tokens it was calibrated on."""
    tokenizer: Any = AutoTokenizer.from_pretrained(job["model"])
    model: Any = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
    modifier = _modifier(job["scheme"], model, job["group_size"])
    if job["calibration"] is None:
        oneshot(model=model, recipe=[modifier], tokenizer=tokenizer)
        counts: dict[str, int | None] = {"calibration_examples": None, "calibration_tokens": None}
    else:
        rows = _rendered(tokenizer, job["calibration"], job["max_length"])
        oneshot(
            model=model,
            recipe=[modifier],
            tokenizer=tokenizer,
            dataset=Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows]),
            max_seq_length=job["max_length"],
            num_calibration_samples=len(rows),
            shuffle_calibration_samples=False,
        )
        counts = {"calibration_examples": len(rows), "calibration_tokens": sum(map(len, rows))}
    model.save_pretrained(job["out"], save_compressed=True)
    return counts


def _rendered(tokenizer: Any, file: str, max_length: int) -> list[list[int]]:
    """The dialogues by the student's chat template, with the end of turn; without any thinking switch."""
    dialogues = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    rendered = tokenizer.apply_chat_template(dialogues, return_dict=True)["input_ids"]
    return [list(ids)[:max_length] for ids in rendered]


def _modifier(scheme: str, model: Any, group_size: int | None) -> Any:
    ignore = _kept_whole(model)
    if scheme == "w8a8":
        return GPTQModifier(targets="Linear", scheme="W8A8", ignore=ignore)
    if scheme == "w4a16":
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
        weights["group_size"] = group_size or _group_size(model, ignore)
        return GPTQModifier(
            config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=ignore
        )
    return QuantizationModifier(targets="Linear", scheme=PRESETS[scheme], ignore=ignore)


def _kept_whole(model: Any) -> list[str]:
    """The output layer, and the routers of mixtures of experts: small, and sensitive to rounding."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if module is head or name.endswith((".mlp.gate", ".router", ".block_sparse_moe.gate"))
    ]


def _group_size(model: Any, ignore: list[str]) -> int:
    widths = {
        module.in_features
        for name, module in model.named_modules()
        if hasattr(module, "in_features") and name not in ignore
    }
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    sizes = ", ".join(map(str, GROUP_SIZES))
    raise SystemExit(f"none of the group sizes {sizes} divides all widths {sorted(widths)} of the layers")


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_bytes())
    Path(given["result"]).write_text(json.dumps(quantize(given)))
