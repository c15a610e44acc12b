"""Which values of a recipe are hidden, and which are shown."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.redaction import HIDDEN, redact


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"env": {"TOKEN": "abc", "X": "1"}}, {"env": {"TOKEN": HIDDEN, "X": HIDDEN}}),
        ({"base_url": "https://me:secret@host/v1"}, {"base_url": f"https://{HIDDEN}@host/v1"}),
        (
            {"base_url": ["https://me@host/v1", "http://b/v1"]},
            {"base_url": [f"https://{HIDDEN}@host/v1", "http://b/v1"]},
        ),
        ({"extra_body": {"api_key": "abc"}}, {"extra_body": {"api_key": HIDDEN}}),
        ({"extra_body": {"auth": {"x-api-key": "abc"}}}, {"extra_body": {"auth": {"x-api-key": HIDDEN}}}),
        ({"vllm": {"hf_token": "abc"}}, {"vllm": {"hf_token": HIDDEN}}),
        ({"vllm": {"HF-Token": "abc"}}, {"vllm": {"HF-Token": HIDDEN}}),
        ({"user": "sk-proj-abcdefgh12345678"}, {"user": HIDDEN}),
        ({"user": "hf_abcdefghijklmnop is it"}, {"user": f"{HIDDEN} is it"}),
        ({"headers": ["Authorization: Bearer abc.def"]}, {"headers": [f"Authorization: Bearer {HIDDEN}"]}),
    ],
)
def test_secrets_are_hidden_wherever_they_stand(given: dict[str, Any], shown: dict[str, Any]) -> None:
    assert redact({"teacher": [given]}) == {"teacher": [shown]}


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 12, "eos_token": "<|im_end|>", "pad_token": "</s>", "token_limit": "max_tokens"},
        {"stop_token_ids": [1, 2], "tokens_per_minute": 5.0, "api_key_env": "OPENAI_API_KEY"},
        {"model": "Qwen/Qwen2.5-7B", "base_url": "https://host/v1", "prompt": "task-1 sk-it"},
        {"key": "", "password": None},
        {"model": "hf-internal-testing/tiny-random-LlamaForCausalLM"},
        {"model": "/models/hf_llama-3-8b-instruct", "path": "hf_datasets/sk-learn-problems.jsonl"},
        {"rules": {"columns": {"keep": {"key": ["a"], "token": ["b"]}}}},
    ],
)
def test_other_values_are_kept(given: dict[str, Any]) -> None:
    assert redact(given) == given
