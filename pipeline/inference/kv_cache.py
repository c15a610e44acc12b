"""Computes what a served model's KV cache takes, from its config: no model is loaded.

For attention with keys and values of each layer. Multi-head latent attention (DeepSeek), layers with a
sliding window and state-space layers take less: of models with such nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UTILIZATION = 0.92  # vLLM 0.32's default share of a GPU's memory
RESERVED = 4e9  # bytes of each GPU for activations and CUDA graphs: an assumption, vLLM measures them
QUESTION = 500  # tokens, an assumption
# Arguments under which an engine's weights or cache take something else than is computed here.
_UNCOUNTED = {"cpu_offload_gb", "enable_expert_parallel", "num_gpu_blocks_override", "quantization"}
_UNCOUNTED |= {"decode_context_parallel_size", "kv_offloading_size", "speculative_config"}
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


def tokens(config: Mapping[str, Any], weights: int, memory: int, engine: Mapping[str, Any]) -> int | None:
    """Tokens for which the cache of one engine has room; None where that cannot be told.

    weights, memory: bytes of the model's weights and of one GPU; engine: vLLM's arguments. An engine takes
    gpu_memory_utilization of each of its tensor x pipeline parallel GPUs; the cache gets what the weights and
    RESERVED leave of it. Key-value heads are split over the tensor parallel GPUs, and repeated where there
    are fewer heads than GPUs (vLLM's ModelConfig.get_num_kv_heads).
    """
    a_token = bytes_per_token(config, engine)
    if a_token is None or _UNCOUNTED & set(engine) or engine.get("dtype") in ("float", "float32"):
        return None
    split = int(engine.get("tensor_parallel_size", 1))
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    gpus = split * int(engine.get("pipeline_parallel_size", 1))
    share = float(engine.get("gpu_memory_utilization", UTILIZATION))
    free = gpus * (memory * share - RESERVED) - weights
    if given := engine.get("kv_cache_memory_bytes"):
        free = gpus * int(given)
    room = int(free / (a_token * max(1, split // heads)))
    return room if room > 0 else None


def usual_length(max_tokens: int) -> int:
    """Tokens that an answer in work holds on average: it ends at half the limit, and half of it is written.

    Assumptions both: thoughts of competition maths under a limit of 32,768 were some 10,000 tokens long.
    """
    return QUESTION + max_tokens // 4
