"""When two manifests are of the same settings."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.engine.manifest import MODEL_FILES, settings_difference


@pytest.mark.parametrize(
    ("before", "now", "what"),
    [
        ({MODEL_FILES: "a"}, {MODEL_FILES: "b"}, 'model_files: "a" -> "b"'),
        ({"t": [{MODEL_FILES: "a"}]}, {"t": [{MODEL_FILES: "b"}]}, 't.0.model_files: "a" -> "b"'),
        ({"model": "m", MODEL_FILES: "a"}, {"model": "m"}, ""),
        ({"model": "m"}, {"model": "m", MODEL_FILES: "a"}, ""),
        ({"t": [{MODEL_FILES: "a", "top_k": 1}]}, {"t": [{"top_k": 2}]}, "t.0.top_k: 1 -> 2"),
    ],
)
def test_a_model_whose_files_are_unknown_is_no_other_model(
    before: dict[str, Any], now: dict[str, Any], what: str
) -> None:
    assert settings_difference(before, now) == what


def test_true_is_another_setting_than_1() -> None:
    assert settings_difference({"x": 1}, {"x": True}) == "x: 1 -> true"
    assert settings_difference({"x": 1}, {"x": 1.0}) == ""
