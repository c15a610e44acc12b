"""Converts a GGUF file to a model folder: `python -m pipeline.train.trainer.convert_gguf GGUF OUT`.

The weights are dequantized to bfloat16, so vLLM, transformers and TRL can load the folder. Needs no network.
Leaves out finding the file, caching and atomicity: see pipeline/inference/model_files.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported, by the lines below

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedTokenizerBase,
)


def convert(gguf: Path, out: Path) -> None:
    """Writes model, tokenizer and generation config to `out`. Exits with one line for a base model's file."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise SystemExit("the file has no chat template: use the file of an instruct model")
    if tokenizer.eos_token_id is None:
        raise SystemExit("the file names no end-of-text token, so no answer would ever end")
    _write_model(gguf, tokenizer, out)
    tokenizer.save_pretrained(out)
    _verify(out, tokenizer)


def _write_model(gguf: Path, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.config.quantization_config = None  # the weights are plain now
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)


def _verify(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Loads the folder and compares what could be wrong without an error."""
    saved = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if _tokens(saved) != _tokens(tokenizer):
        raise SystemExit("the saved tokenizer differs from the one in the file")
    if model.dtype != torch.bfloat16 or model.generation_config.eos_token_id != tokenizer.eos_token_id:
        raise SystemExit("the saved model is not plain bfloat16 with the file's end-of-text token")


def _tokens(tokenizer: PreTrainedTokenizerBase) -> object:
    return tokenizer.apply_chat_template([{"role": "user", "content": "What is 7 + 8?"}])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m pipeline.train.trainer.convert_gguf GGUF OUT")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
