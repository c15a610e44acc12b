"""The trained student's folder without what names this machine, and how the student was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.inspect.run import Run
from pipeline.publish.facts import public

_OWN_PATHS = ("_name_or_path", "name_or_path", "_model_name_or_path")  # where transformers notes its folder


def copy(run: Run, folder: Path) -> None:
    """Copy the model; of its JSON files those keys go that may hold a folder of this machine."""
    folder.mkdir()
    for path in sorted((run.path / "train" / "model").iterdir()):
        if path.suffix == ".json" and path.name.endswith("config.json"):
            (folder / path.name).write_text(_without_paths(path.read_text("utf-8")), encoding="utf-8")
        elif path.is_file() and path.name != "README.md":
            shutil.copyfile(path, folder / path.name)


def settings(run: Run) -> dict[str, str]:
    """Under which settings the student was trained, and how the training went, as text."""
    manifest = run.output("train").manifest()
    assert manifest is not None, "the student is trained"
    said = {**dict(_flat("", manifest.settings)), **dict(_flat("", manifest.report))}
    return {name: public(value) for name, value in said.items()}


def _flat(prefix: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested tables as "lora.rank"; what is not set is left out."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, dict):
            found += _flat(f"{prefix}{name}.", value)
        elif value is not None and value != []:
            found.append((f"{prefix}{name}", str(value)))
    return found


def _without_paths(text: str) -> str:
    config = json.loads(text)
    kept = {k: v for k, v in config.items() if k not in _OWN_PATHS}
    return json.dumps(kept, indent=2, sort_keys=True) + "\n"
