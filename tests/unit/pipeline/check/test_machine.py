"""What `retort doctor` says of a machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from pipeline.check import machine
from pipeline.compress import interpreter


def test_every_part_of_this_machine_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = dict(machine.examine(tmp_path / "data" / "runs"))
    assert found["Python"].startswith(platform.python_version())
    assert "torch" in found["train"]
    assert found["runs"].startswith(f"{tmp_path}, ")
    assert found["ports"] == "a local server can be started"
    assert found["sandbox"] == "full"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_comes_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreter.VARIABLE, str(tmp_path / "none"))
    monkeypatch.setattr(machine, "_EXTRAS", {"ray": (("no-such-package",),)})
    found = dict(machine.examine(tmp_path))
    assert found["ray"].startswith("no-such-package is not installed: ")
    assert "[ray]" in found["ray"]
    assert "no Python interpreter there" in found["compress"]
