"""Selects the settings of a model that change its output. They identify a run; the others may change."""

from __future__ import annotations

from typing import Any

from pipeline.config.endpoints import Endpoint
from pipeline.inference import model_files

# vLLM engine arguments that change its speed, not its output.
PERFORMANCE_ARGS = frozenset(
    {
        "async_scheduling",
        "block_size",
        "data_parallel_size",
        "disable_log_stats",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_logprobs",
        "max_num_batched_tokens",
        "max_num_seqs",
        "pipeline_parallel_size",
        "speculative_config",
        "stream_interval",
        "swap_space",
        "tensor_parallel_size",
    }
)


def model_settings(name: str, endpoint: Endpoint) -> dict[str, Any]:
    """The settings of a model that change its responses."""
    return {
        "name": name,
        "model": endpoint.model,
        **local_files(endpoint),
        "weights": output_affecting_args(endpoint),
        "extra_body": endpoint.extra_body,
        **omitted_fields(endpoint),
    }


def local_files(endpoint: Endpoint) -> dict[str, str]:
    """The content of the model's files; {} if it is on the hub, behind a URL or gone."""
    return {} if endpoint.base_url else model_files.content(endpoint.model)


def output_affecting_args(endpoint: Endpoint) -> dict[str, Any]:
    """The vLLM engine arguments that may change the output: all but PERFORMANCE_ARGS.

    Names are written with "_", as vLLM takes "-" for the same.
    """
    engine = {name.replace("-", "_"): value for name, value in endpoint.vllm.items()}
    return {name: value for name, value in engine.items() if name not in PERFORMANCE_ARGS}


def omitted_fields(endpoint: Endpoint) -> dict[str, list[str]]:
    """The sampling fields that the recipe leaves out of requests: {"omit": [...]}, or {} if none."""
    omitted = [str(name) for name in sorted(endpoint.omit) if name != "stream_options"]
    return {"omit": omitted} if omitted else {}
