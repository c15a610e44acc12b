"""Bytes per token of the KV cache, against figures computed by hand."""

from typing import Any

import pytest

from pipeline.inference.kv_cache import bytes_per_token

QWEN3_32B = {"num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
QWEN25_7B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
}


@pytest.mark.parametrize(
    ("config", "engine", "expected"),
    [
        (QWEN3_32B, {}, 262_144),
        (QWEN3_32B, {"kv_cache_dtype": "fp8"}, 131_072),
        (QWEN25_7B, {"kv_cache_dtype": "auto"}, 57_344),
        (QWEN25_7B | {"num_key_value_heads": None}, {}, 401_408),
        (QWEN25_7B | {"layer_types": ["full_attention"] * 28}, {}, 57_344),
    ],
)
def test_a_token_takes_a_key_and_a_value_in_each_layer(config: Any, engine: Any, expected: int) -> None:
    assert bytes_per_token(config, engine) == expected


@pytest.mark.parametrize(
    ("config", "engine"),
    [
        ({}, {}),
        (QWEN3_32B | {"kv_lora_rank": 512}, {}),
        (QWEN3_32B | {"layer_types": ["sliding_attention", "full_attention"] * 32}, {}),
        (QWEN3_32B, {"kv_cache_dtype": "something_new"}),
    ],
)
def test_unusual_attention_is_unknown(config: Any, engine: Any) -> None:
    assert bytes_per_token(config, engine) is None
