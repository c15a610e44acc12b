"""The interpreter with the tools: where it is looked for, and that it has what the schemes need."""

from pathlib import Path

import pytest

from pipeline.compress import interpreter
from pipeline.config.compress import Compress
from pipeline.errors import UserError
from tests.unit.pipeline.compress import standin


def test_the_recipe_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = standin.interpreter(tmp_path / "a"), standin.interpreter(tmp_path / "b")
    monkeypatch.setenv(interpreter.VARIABLE, str(other))
    assert interpreter.find(Compress()) == other
    assert interpreter.find(Compress(python=str(ours))) == ours


def test_a_path_without_an_interpreter_is_named_with_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreter.VARIABLE, "/nowhere/python")
    with pytest.raises(UserError, match=r"RETORT_COMPRESS_PYTHON = /nowhere/python: no Python"):
        interpreter.find(Compress())


def test_without_any_interpreter_the_command_that_installs_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(interpreter, "FOLDERS", (".none-gpu", ".none"))
    with pytest.raises(UserError, match=r"run\.sh setup compress"):
        interpreter.find(Compress())


def test_a_missing_package_is_named_with_the_scheme_that_needs_it(tmp_path: Path) -> None:
    python = standin.interpreter(tmp_path, missing=("llmcompressor",))
    interpreter.check(Compress(schemes=("gguf-f16",), python=str(python)))
    with pytest.raises(UserError, match=r"w8a8 needs llmcompressor, which .* does not have"):
        interpreter.check(Compress(schemes=("gguf-f16", "w8a8"), python=str(python)))


def test_a_program_that_is_no_interpreter_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no\n")
    program.chmod(0o755)
    with pytest.raises(UserError, match="does not run as a Python interpreter"):
        interpreter.versions(program, ("torch",))
