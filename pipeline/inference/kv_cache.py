"""Computes the size of a served model's KV cache from its config; no model is loaded.

Covers attention with keys and values in every layer. Multi-head latent attention (DeepSeek), sliding-window
and state-space layers take less; for models with those nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UTILIZATION = 0.92  # vLLM 0.32's default share of a GPU's memory
RESERVED = 4e9  # bytes per GPU for activations and CUDA graphs: an assumption, vLLM measures them
PROMPT_TOKENS = 500  # an assumption
# Arguments that change the size of weights or cache in ways not computed here.
UNSUPPORTED = {"cpu_offload_gb", "enable_expert_parallel", "num_gpu_blocks_override", "quantization"}
UNSUPPORTED |= {"decode_context_parallel_size", "kv_offloading_size", "speculative_config"}
WIDTHS = {"auto": 2, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}  # bytes per number
_OTHER_LAYERS = ("kv_lora_rank", "layers_block_type", "hybrid_override_pattern", "mamba_d_state")


def bytes_per_token(config: Mapping[str, Any], engine: Mapping[str, Any]) -> int | None:
    """Returns the bytes of one token in the cache, over all GPUs; None if the config does not tell.

    2 (key and value) x layers x key-value heads x head size x bytes per number. `config`: the text model's
    config.json; `engine`: vLLM's arguments, of which kv_cache_dtype matters.
    """
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    width = WIDTHS.get(str(engine.get("kv_cache_dtype", "auto")))
    if not (isinstance(layers, int) and isinstance(heads, int)) or width is None or _has_other_layers(config):
        return None
    size = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return 2 * layers * (config.get("num_key_value_heads") or heads) * size * width or None


def _has_other_layers(config: Mapping[str, Any]) -> bool:
    kinds = set(config.get("layer_types") or ())
    return bool(kinds - {"full_attention"}) or any(config.get(name) for name in _OTHER_LAYERS)


def capacity(config: Mapping[str, Any], weights: int, memory: int, engine: Mapping[str, Any]) -> int | None:
    """Returns the tokens that fit into the cache of one engine; None if that cannot be computed.

    `weights`, `memory`: bytes of the model's weights and of one GPU; `engine`: vLLM's arguments. An engine
    uses gpu_memory_utilization of each of its tensor x pipeline parallel GPUs; the cache gets what the
    weights and RESERVED leave of it. Key-value heads are split over the tensor parallel GPUs, and replicated
    if there are fewer heads than GPUs (vLLM's ModelConfig.get_num_kv_heads).
    """
    per_token = bytes_per_token(config, engine)
    if per_token is None or UNSUPPORTED & set(engine) or engine.get("dtype") in ("float", "float32"):
        return None
    split = int(engine.get("tensor_parallel_size", 1))
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    gpus = split * int(engine.get("pipeline_parallel_size", 1))
    share = float(engine.get("gpu_memory_utilization", UTILIZATION))
    free = gpus * (memory * share - RESERVED) - weights
    if cache := engine.get("kv_cache_memory_bytes"):
        if not str(cache).isdecimal():  # such as 25G, which vLLM reads
            return None
        free = gpus * int(cache)
    tokens = int(free / (per_token * max(1, split // heads)))
    return tokens if tokens > 0 else None


def expected_length(max_tokens: int) -> int:
    """Returns the average tokens of a response in progress: it ends at half the limit and is half written.

    Both are assumptions: reasoning on competition maths under a limit of 32,768 was about 10,000 tokens long.
    """
    return PROMPT_TOKENS + max_tokens // 4
