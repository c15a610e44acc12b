"""Copies models without paths of this machine, and lists the training settings of the student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.inspect.run import Run
from pipeline.publish.facts import public

_OWN_PATHS = ("_name_or_path", "name_or_path", "_model_name_or_path")  # its own folder


def copy(model: Path, folder: Path) -> None:
    """Copies a model's folder; keys of its configs that may hold a folder of this machine are removed."""
    folder.mkdir()
    for path in sorted(model.iterdir()):
        if path.suffix == ".json" and path.name.endswith("config.json"):
            (folder / path.name).write_text(_without_paths(path.read_text("utf-8")), encoding="utf-8")
        elif path.is_file() and path.name != "README.md":
            shutil.copyfile(path, folder / path.name)


def settings(run: Run) -> dict[str, str]:
    """The settings and the report of the training, as text by dotted name."""
    manifest = run.output("train").manifest()
    assert manifest is not None, "the student is trained"
    report = {name: value for name, value in manifest.report.items() if name != "pruned"}  # too long
    found = _flat("", manifest.settings) + _flat("", report)
    return {name: public(value) for name, value in found}


def _flat(prefix: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, nested ones as "lora.rank", without those that are not set."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(number): each for number, each in enumerate(value)}
        if name == "extra_body" and isinstance(value, dict):  # texts are left out: one may be a key
            value = {field: each for field, each in value.items() if isinstance(each, bool | int | float)}
        if isinstance(value, dict):
            found += _flat(f"{prefix}{name}.", value)
        elif value is not None and value != []:
            found.append((f"{prefix}{name}", str(value)))
    return found


def _without_paths(text: str) -> str:
    config = json.loads(text)
    kept = {k: v for k, v in config.items() if k not in _OWN_PATHS}
    return json.dumps(kept, indent=2, sort_keys=True) + "\n"
