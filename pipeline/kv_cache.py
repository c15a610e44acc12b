"""Computes what a served model's KV cache takes, from its config: no model is loaded.

For attention with keys and values of each layer. Multi-head latent attention (DeepSeek), layers with a
sliding window and state-space layers take less: of models with such nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTHS = {"auto": 2, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}  # bytes a number
_OTHERWISE = ("kv_lora_rank", "layers_block_type", "hybrid_override_pattern", "mamba_d_state")


def bytes_per_token(config: Mapping[str, Any], engine: Mapping[str, Any]) -> int | None:
    """Bytes of one token in the cache, over all GPUs; None where that is not plain from the config.

    config: the text model's config.json; engine: vLLM's arguments, of which kv_cache_dtype counts.
    2 (key and value) x layers x key-value heads x size of a head x bytes of a number.
    """
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    width = WIDTHS.get(str(engine.get("kv_cache_dtype", "auto")))
    if not (isinstance(layers, int) and isinstance(heads, int)) or width is None or _not_plain(config):
        return None
    size = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return 2 * layers * (config.get("num_key_value_heads") or heads) * size * width or None


def _not_plain(config: Mapping[str, Any]) -> bool:
    kinds = set(config.get("layer_types") or ())
    return bool(kinds - {"full_attention"}) or any(config.get(name) for name in _OTHERWISE)
