"""Makes a smaller student by dropping layers: `python -m pipeline.train.trainer.prune MODEL LAYERS OUT`.

The layers that stay are evenly spaced and include the first and the last, as DistilBERT was made from BERT
(Sanh et al. 2019, arXiv 1910.01108). Tokenizer, chat template and generation config stay as they are. Leaves
out finding the model (pipeline/inference/model_files.py), caching and atomicity (model_cache.py there).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if os.path.isdir(sys.argv[1] if len(sys.argv) > 1 else ""):
    os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported, by the lines below

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from pipeline.train.trainer.layers import layer_stack

PROBE = "What is 7 + 8?"


def prune(model: str, layers: int, out: Path) -> None:
    """Writes the model with `layers` of its layers to `out`, in bfloat16. Exits with one line on failure."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    pruned = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    drop_layers(pruned, layers)
    pruned.save_pretrained(out)
    tokenizer.save_pretrained(out)
    tokens = tokenizer(PROBE, return_tensors="pt", add_special_tokens=False)["input_ids"]
    _verify(out, pruned, tokens)


def drop_layers(model: PreTrainedModel, layers: int) -> tuple[int, ...]:
    """Drops layers in place; returns the former numbers, from 0, of those that stay."""
    config = model.config.get_text_config(decoder=True)
    kept = evenly_spaced(layers, config.num_hidden_layers)
    stack = layer_stack(model, config.num_hidden_layers)
    if stack is None:
        raise SystemExit(f"{type(model).__name__} has no list of layers, so none can be dropped")
    remaining = [stack[number] for number in kept]
    for number, layer in enumerate(remaining):
        for module in layer.modules():  # attention indexes the key-value cache by layer_idx
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]
    del stack[:]
    stack.extend(remaining)
    _prune_config(config, kept)
    return kept


def evenly_spaced(layers: int, total: int) -> tuple[int, ...]:
    """The layers to keep, the first and the last among them: six of 12 are 0 2 4 7 9 11."""
    if not 1 <= layers <= total:
        raise SystemExit(f"the model has {total} layers: {layers} of them cannot be kept")
    return tuple(round(i * (total - 1) / max(1, layers - 1)) for i in range(layers))


def _prune_config(config: PreTrainedConfig, kept: tuple[int, ...]) -> None:
    """Sets the number of layers; lists with one entry per layer, such as layer_types, lose the same ones."""
    before = config.num_hidden_layers
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == before:
            setattr(config, name, [value[number] for number in kept])
    config.num_hidden_layers = len(kept)


def _verify(folder: Path, model: PreTrainedModel, tokens: torch.Tensor) -> None:
    """Loads the folder and compares its logits with those of the model in memory.

    They differ where a layer's type follows from its number, which dropping layers changes.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    saved, info = loaded
    if any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{type(model).__name__} has layers of several types, so none can be dropped")
    with torch.no_grad():
        expected, found = model(tokens).logits.float(), saved.eval()(tokens).logits.float()
    if saved.dtype != torch.bfloat16 or not torch.allclose(expected, found, rtol=1e-2, atol=1e-2):
        raise SystemExit("the saved model's logits differ: its layers depend on their numbers")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m pipeline.train.trainer.prune MODEL LAYERS OUT")
    prune(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
