"""Makes a smaller student: `python -m pipeline.train.trainer.prune MODEL PRUNING OUT`; PRUNING is JSON.

Layers that stay are evenly spaced, as DistilBERT was made from BERT (Sanh et al. 2019, arXiv 1910.01108), or
those with the most block influence. Of each layer the most active heads and MLP channels stay; importance.py
measures them on the run's examples, once, on the whole model. Tokenizer, chat template and generation config
stay as they are. Leaves out finding the model (pipeline/inference/model_files.py), caching and atomicity
(model_cache.py there), and the width of the hidden states.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if os.path.isdir(sys.argv[1] if len(sys.argv) > 1 else ""):
    os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported, by the lines below

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from pipeline.engine.store import Output
from pipeline.errors import UserError, one_line
from pipeline.inference.pruning import RECORD, Pruning
from pipeline.rows import Example
from pipeline.select.spaced import chosen
from pipeline.train.trainer.importance import Importance, measure, most
from pipeline.train.trainer.layers import depth, layer_stack
from pipeline.train.trainer.prunable_layers import Parts, parts_of

PROBE = "What is 7 + 8?"
EXAMPLES, MAX_TOKENS = 128, 2048  # that importance is measured on; of each example the first tokens
Record = dict[str, Any]


def prune(model: str, pruning: Pruning, out: Path) -> None:
    """Writes the pruned model to `out`, in bfloat16, and what was dropped. Exits with one line on failure."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    pruned = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    check(pruned, pruning)
    found = _measured(pruned, tokenizer, pruning) if pruning.measured else None
    record = reduce_to(pruned, pruning, found)
    pruned.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    tokens = tokenizer(PROBE, return_tensors="pt", add_special_tokens=False)["input_ids"]
    _verify(out, pruned, tokens)


def check(model: PreTrainedModel, pruning: Pruning) -> None:
    """Exits with one line where the model cannot be pruned like this."""
    name, parts = type(model).__name__, parts_of(model)
    config = model.config.get_text_config(decoder=True)
    if pruning.layers and pruning.layers > len(parts):
        raise SystemExit(f"the model has {len(parts)} layers: {pruning.layers} of them cannot be kept")
    if pruning.heads:
        each = config.num_attention_heads // parts[0].groups
        if pruning.heads % each or pruning.heads > config.num_attention_heads:
            raise SystemExit(
                f"the model has {config.num_attention_heads} heads, {each} for each key-value head: "
                f"{pruning.heads} of them cannot be kept"
            )
        if any(part.attention is None for part in parts):
            raise SystemExit(f"the attention of {name} has other weights than q, k, v, o: keep all heads")
        if "head_dim" not in config.to_dict():  # vLLM then derives the size from the number of heads
            raise SystemExit(f"{name} has no setting for the size of a head: keep all heads")
        try:
            type(config)(**config.to_dict() | {"num_attention_heads": pruning.heads})
        except (ValueError, StrictDataclassError) as e:
            raise SystemExit(f"{name} cannot have {pruning.heads} heads: {one_line(e)}") from None
    if pruning.intermediate_size:
        if any(part.mlp is None for part in parts):
            raise SystemExit(f"the MLP of {name} is not gate, up and down: keep all of its channels")
        if pruning.intermediate_size > config.intermediate_size:
            raise SystemExit(f"the model has {config.intermediate_size} MLP channels: set at most that many")


def _measured(model: PreTrainedModel, tokenizer: Any, pruning: Pruning) -> Importance:
    """The importance of all parts on the run's training examples, on an accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    whole: Any = model
    if device is not None:
        whole.to(device)
    found = measure(model, _examples(tokenizer, pruning))
    whole.to("cpu")
    return found


def _examples(tokenizer: Any, pruning: Pruning) -> Iterator[list[int]]:
    """Token ids of dialogues in the model's chat template, or of their texts where it has none."""
    assert pruning.examples is not None, "a measured pruning has examples"
    for messages in chosen(Output(pruning.examples, Example), EXAMPLES):
        if tokenizer.chat_template:
            ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        else:
            ids = tokenizer("\n".join(message["content"] for message in messages))["input_ids"]
        yield ids[:MAX_TOKENS]


def reduce_to(model: PreTrainedModel, pruning: Pruning, found: Importance | None) -> Record:
    """Cuts the model in place; returns what was dropped, numbered from 1, and the scores."""
    config = model.config.get_text_config(decoder=True)
    kept = _kept_layers(pruning, depth(model), found)
    record: Record = {"layers_dropped": _others(kept, depth(model))}
    if found:
        record["block_influence"] = _rounded(found.layers)
    drop_layers(model, kept)
    layers = list(zip(kept, parts_of(model), strict=True))
    if pruning.heads and found:
        groups = pruning.heads * layers[0][1].groups // config.num_attention_heads
        record |= _drop_heads(layers, found, groups, config.num_attention_heads)
        config.head_dim = layers[0][1].head_dim
        config.num_attention_heads, config.num_key_value_heads = pruning.heads, groups
    if pruning.intermediate_size and found:
        record |= _drop_channels(layers, found, pruning.intermediate_size)
        config.intermediate_size = pruning.intermediate_size
    return record


def _kept_layers(pruning: Pruning, total: int, found: Importance | None) -> Sequence[int]:
    """The layers that stay, numbered from 0."""
    if pruning.layers and pruning.layers_by == "block_influence" and found:
        return most(found.layers, pruning.layers)
    return evenly_spaced(pruning.layers or total, total)


def _drop_heads(layers: Sequence[tuple[int, Parts]], found: Importance, groups: int, heads: int) -> Record:
    """Keeps the most active key-value heads of each layer, with the heads that share them."""
    dropped, scores = {}, {}
    for number, part in layers:
        kept = most(found.heads[number], groups)
        part.keep_groups(kept, heads)
        dropped[number + 1] = _others(kept, part.groups)
        scores[number + 1] = _rounded(found.heads[number])
    return {"key_value_heads_dropped": dropped, "key_value_head_scores": scores}


def _drop_channels(layers: Sequence[tuple[int, Parts]], found: Importance, size: int) -> Record:
    """Keeps the most active channels of each layer; also says how much of all activity they have."""
    dropped, scores, share = {}, {}, {}
    for number, part in layers:
        activity = found.channels[number]
        kept = most(activity, size)
        part.keep_channels(kept)
        dropped[number + 1] = _others(kept, len(activity))
        scores[number + 1] = _rounded(activity)
        share[number + 1] = round(sum(activity[i] for i in kept) / (sum(activity) or 1), 4)
    return {"mlp_activity_kept": share, "channels_dropped": dropped, "channel_scores": scores}


def _others(kept: Sequence[int], total: int) -> list[int]:
    """What is not kept, numbered from 1."""
    return [i + 1 for i in range(total) if i not in set(kept)]


def _rounded(scores: Sequence[float]) -> list[float]:
    return [float(f"{score:.4g}") for score in scores]


def evenly_spaced(layers: int, total: int) -> tuple[int, ...]:
    """The layers to keep, the first and the last among them: six of 12 are 0 2 4 7 9 11."""
    return tuple(round(i * (total - 1) / max(1, layers - 1)) for i in range(layers))


def drop_layers(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Drops all layers in place but those with these numbers, from 0."""
    config = model.config.get_text_config(decoder=True)
    stack = layer_stack(model, config.num_hidden_layers)
    assert stack is not None, "parts_of checks it"
    remaining = [stack[number] for number in kept]
    for number, layer in enumerate(remaining):
        for module in layer.modules():  # attention indexes the key-value cache by layer_idx
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]
    del stack[:]
    stack.extend(remaining)
    _prune_config(config, kept)


def _prune_config(config: PreTrainedConfig, kept: Sequence[int]) -> None:
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
        sys.exit("usage: python -m pipeline.train.trainer.prune MODEL PRUNING OUT")
    try:
        prune(sys.argv[1], Pruning.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
    except UserError as e:
        sys.exit(str(e))
