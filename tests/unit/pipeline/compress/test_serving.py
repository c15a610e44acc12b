"""The settings with which a compressed student is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.compress import interpreter, serving
from tests import tiny_student


@pytest.mark.parametrize("name", ["max_model_len", "max-model-len"])
def test_the_context_is_that_of_the_recipe_in_both_spellings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "find", lambda settings: Path("python"))
    recipe = tiny_student.recipe()
    assert recipe.student is not None
    student = recipe.student.model_copy(update={"vllm": {name: 16384}})
    recipe = recipe.model_copy(update={"student": student})
    line = serving._command("gguf-q8_0", Path("m.gguf"), "m", recipe, "127.0.0.1", 8000)
    assert json.loads(line[-1])["context"] == 16384
