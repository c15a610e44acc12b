"""Generations: how often a model, and those whose texts it learned from, were trained on texts of models.

0 is a model that its makers trained, or people. A student of teachers or traces of generation g is g + 1, and
no less than its own base. Over generations of models trained on each other's texts, rare answers disappear
(Shumailov et al. 2023, arXiv 2305.17493).

A generation is written as text: "2", or "2+" for at least 2, where something behind it is unknown; None where
nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Collection

MARK = "retort_generation"  # in the config.json of a student, where transformers and its tools keep it
COLUMN = "teacher_generation"  # of traces, also of published ones

_WRITTEN = re.compile(r"[0-9]{1,4}\+?")


def read(value: object) -> str | None:
    """Returns a generation as it is written; None for anything else, and for "0+".

    Columns with gaps may hold numbers such as 1.0.
    """
    text = str(value).removesuffix(".0")
    return text if _WRITTEN.fullmatch(text) and text != "0+" else None


def least(generation: str | None) -> int:
    """The generation, or where it is not known exactly the lowest that it can be."""
    return int(generation.rstrip("+")) if generation else 0


def of_student(base: str | None, learned: Collection[str | None]) -> str:
    """The generation of a student with this base that learned from models of these generations."""
    behind = [base, *learned]
    number = max([least(base), *(least(each) + 1 for each in learned)])
    return f"{number}+" if any(each is None or each.endswith("+") for each in behind) else f"{number}"


def words(generation: str | None) -> str:
    """A generation for people."""
    if generation is None:
        return "unknown"
    return f"{least(generation)} or more" if generation.endswith("+") else generation
