"""Cuts a student from a model by dropping layers: `python -m pipeline.train.trainer.prune MODEL LAYERS OUT`.

What is kept is spread evenly, the first and the last layer among it, as DistilBERT was cut from BERT (Sanh et
al. 2019, arXiv 1910.01108); tokenizer, chat template and generation config stay as they are. Leaves out
finding the model (pipeline/inference/model_files.py), cache and atomicity
(pipeline/inference/model_cache.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if os.path.isdir(sys.argv[1] if len(sys.argv) > 1 else ""):
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: before the lines below

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

PROBE = "What is 7 + 8?"


def cut(model: str, layers: int, out: Path) -> None:
    """Write the model with so many of its layers to `out`, in bfloat16. Ends with one line when it cannot."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    drop_layers(whole, layers)
    whole.save_pretrained(out)
    tokenizer.save_pretrained(out)
    tokens = tokenizer(PROBE, return_tensors="pt", add_special_tokens=False)["input_ids"]
    _verify(out, whole, tokens)


def drop_layers(model: PreTrainedModel, layers: int) -> tuple[int, ...]:
    """Drop layers in place until so many are left; gives the numbers, from 0, that those had."""
    config = model.config.get_text_config(decoder=True)
    kept = spread(layers, config.num_hidden_layers)
    stack = _stack(model, config.num_hidden_layers)
    left = [stack[number] for number in kept]
    for number, layer in enumerate(left):
        for module in layer.modules():  # attention finds its part of the key-value cache by it
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]
    del stack[:]
    stack.extend(left)
    _cut_config(config, kept)
    return kept


def spread(layers: int, of: int) -> tuple[int, ...]:
    """Which to keep, evenly spread, the first and the last among them: of 12, six are 0 2 4 7 9 11."""
    if not 1 <= layers <= of:
        raise SystemExit(f"it has {of} layers: {layers} of them cannot be kept")
    return tuple(round(i * (of - 1) / max(1, layers - 1)) for i in range(layers))


def _stack(model: PreTrainedModel, length: int) -> torch.nn.ModuleList:
    """The list of layers: the outermost of the right length, as a layer may hold lists of its own."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == length:
            return module
    raise SystemExit(f"{type(model).__name__} keeps its layers in no list: they cannot be dropped")


def _cut_config(config: PreTrainedConfig, kept: tuple[int, ...]) -> None:
    """Tell the new number of layers; lists with an entry a layer, such as layer_types, lose the same ones."""
    before = config.num_hidden_layers
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == before:
            setattr(config, name, [value[number] for number in kept])
    config.num_hidden_layers = len(kept)


def _verify(folder: Path, model: PreTrainedModel, tokens: torch.Tensor) -> None:
    """Load the folder as anyone would: it has to answer as the model in memory, whose layers are known.

    It does not where a layer's kind follows from its number, which dropping layers changes.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    again, told = loaded
    if any(told[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{type(model).__name__} has layers of several kinds: they cannot be dropped")
    with torch.no_grad():
        ours, theirs = model(tokens).logits.float(), again.eval()(tokens).logits.float()
    if again.dtype != torch.bfloat16 or not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2):
        raise SystemExit(
            "the saved model answers otherwise than the one in memory: its layers differ by number"
        )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m pipeline.train.trainer.prune MODEL LAYERS OUT")
    cut(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
