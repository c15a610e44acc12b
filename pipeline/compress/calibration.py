"""Writes the training examples on which a scheme is calibrated, and the prompt that every export answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.store import Output
from pipeline.select.spaced import chosen

_SCANNED = 1024  # examples among which the shortest one is looked for


def write(examples: Output, most: int, target: Path) -> None:
    """Writes the dialogues of at most `most` training examples, evenly spaced, as JSON lines."""
    lines = (json.dumps(dialogue, ensure_ascii=False) + "\n" for dialogue in chosen(examples, most))
    write_atomic(target, "".join(lines).encode())


def shortest_prompt(examples: Output) -> list[dict[str, str]]:
    """The messages before the answer of the example with the least text, among evenly spaced ones.

    Its answer is likely to be short, so the check of an export sees it end.
    """
    dialogue = min(chosen(examples, _SCANNED), key=_characters)
    return dialogue[:-1]


def _characters(dialogue: list[dict[str, Any]]) -> int:
    return sum(len(message["content"]) for message in dialogue)
