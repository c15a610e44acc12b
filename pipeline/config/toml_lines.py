"""Finds the line on which a key of a TOML document stands, which tomllib does not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any


def lines_of(text: str, keys: Iterable[str]) -> dict[str, int]:
    """Returns the lines, from 1, of dotted keys; for a key that is missing, that of its innermost table.

    A key without such a table is left out.
    """
    parts = list(_parts(text))
    found = {}
    for key in keys:
        steps = tuple(key.split("."))
        while steps and not _holds(parts[-1][1], steps):
            steps = steps[:-1]
        if steps:
            found[key] = next(n + 1 for (n, _), (_, data) in pairwise(parts) if _holds(data, steps))
    return found


def _parts(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields how many of the first lines are a document, and what they hold; a value may take several."""
    lines = text.replace("\r\n", "\n").split("\n")
    for number in range(len(lines) + 1):
        try:
            yield number, tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue


def _holds(data: Any, steps: tuple[str, ...]) -> bool:
    for step in steps:
        if isinstance(data, list) and step.isdigit() and int(step) < len(data):
            data = data[int(step)]
        elif isinstance(data, Mapping) and step in data:
            data = data[step]
        else:
            return False
    return True
