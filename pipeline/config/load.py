"""Reads a recipe from TOML and key=value overrides; every mistake becomes a one-line UserError."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from filters.table import check_names
from pipeline import shipped
from pipeline.config import Recipe
from pipeline.config.explain import explain
from pipeline.config.filters import Filter
from pipeline.config.redaction import HIDDEN, redact
from pipeline.config.toml_lines import lines_of
from pipeline.errors import UserError, nearest

MAX_DEPTH = 20  # of tables within tables

# Parameters of filters under select.reasoning = "none", where the recipe does not set them.
REASONING_OPTIONAL: dict[str, dict[str, Any]] = {
    "single_reasoning": {"required": False},
    "length": {"min_reasoning": 0},
}


class RecipeError(UserError):
    """Mistakes in a recipe: the first in one line, and all of them."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        more = f" (and {len(mistakes) - 1} more: `retort check` lists them)" if mistakes[1:] else ""
        super().__init__(mistakes[0] + more)
        self.mistakes = tuple(mistakes)


def load_recipe(
    path: Path, overrides: Sequence[str] = (), more_sets: Sequence[dict[str, Any]] = ()
) -> Recipe:
    """Reads and validates a recipe, given by its path or the name of one that is shipped.

    Raises UserError, one line, naming the key and the nearest known one; RecipeError for several mistakes.
    `more_sets`: tables of [[evaluate.sets]] that are added to those of the recipe.
    """
    path = find_recipe(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UserError(f"{path}: not a TOML recipe: {e}") from None
    except RecursionError:
        raise UserError(f"{path}: not a TOML recipe: nested too deeply") from None
    if more_sets:
        _add_sets(data, more_sets, str(path))
    return parse_recipe(data, overrides, str(path), text)


def find_recipe(path: Path) -> Path:
    """Returns the path, or that of a shipped recipe with this name or path. Raises UserError for none."""
    if (found := shipped.find(path)).exists():
        return found
    named = {file.stem: file for file in shipped.RECIPES.glob("*.toml")}
    if path.name != str(path) or path.suffix:
        raise UserError(f"{path}: no such recipe")
    if path.name not in named:
        raise UserError(f"{path}: no such recipe{nearest(path.name, named)}")
    return named[path.name]


def _add_sets(data: dict[str, Any], more_sets: Sequence[dict[str, Any]], where: str) -> None:
    evaluate = data.setdefault("evaluate", {})
    sets = evaluate.get("sets", []) if isinstance(evaluate, dict) else None
    if not isinstance(sets, list):
        raise UserError(f"{where}: evaluate.sets must be tables [[evaluate.sets]]")
    evaluate["sets"] = [*sets, *more_sets]


def parse_recipe(data: dict[str, Any], overrides: Sequence[str], where: str, text: str = "") -> Recipe:
    """Validates a parsed recipe. Raises UserError, one line, that begins with `where` it comes from.

    `text`: the document, for the lines of mistakes.
    """
    for override in overrides:
        _apply(data, override)
    _check_values(data, where)
    _merge_rules(data)
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        found = explain(e, isinstance(data.get("teacher"), dict))
        changed = {override.partition("=")[0].strip() for override in overrides}
        lines = lines_of(text, found.keys() - changed)
        places = sorted(found, key=lambda key: lines.get(key, 0))
        raise RecipeError(
            [f"{where}{f':{lines[key]}' if key in lines else ''}: {found[key]}" for key in places]
        ) from None


def redacted_override(override: str) -> str:
    """Returns an override as it may be printed, its value hidden if it holds a secret."""
    key, _, text = override.partition("=")
    given: Any = _value(key, text)
    for step in reversed(key.strip().split(".")):
        given = {step: given}
    return override if redact(given) == given else f"{key}={HIDDEN}"


def _value(key: str, text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except RecursionError:
        raise UserError(f"override {key}: nested too deeply") from None
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _apply(data: dict[str, Any], override: str) -> None:
    key, eq, text = override.partition("=")
    if not eq or not key.strip():
        raise UserError(f"{override!r}: an override is key=value, e.g. generate.samples=2")
    value = _value(key, text)
    *path, last = key.strip().split(".")
    at: Any = data
    for step in path:
        at = _descend(at, step, key)
    at[_index(at, last, key) if isinstance(at, list) else last] = value


def _descend(at: Any, step: str, key: str) -> Any:
    below = at[_index(at, step, key)] if isinstance(at, list) else at.setdefault(step, {})
    if below is True and key.startswith("filter.rules."):  # a rule without parameters
        below = at[step] = {}
    if not isinstance(below, dict | list):
        raise UserError(f"override {key}: {step!r} is a value, not a table")
    return below


def _index(at: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(at):
        raise UserError(f"override {key}: {step!r} is not one of the positions 0 to {len(at) - 1}")
    return int(step)


def _check_values(data: dict[str, Any], where: str) -> None:
    """Raises UserError for values that TOML allows and no setting does, such as NaN or a NUL character."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while todo:
        keys, value = todo.pop()
        fault = None
        if isinstance(value, dict | list):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [((*keys, str(key)), below) for key, below in inside]
            fault = "nested too deeply" if len(keys) > MAX_DEPTH else None
        elif isinstance(value, float) and not math.isfinite(value):
            fault = f"{value} is not a finite number"
        elif isinstance(value, int) and abs(value) >= 2**63:
            fault = "a number of more than 64 bits"
        elif isinstance(value, str) and "\0" in value:
            fault = "a text with a NUL character"
        if fault:
            raise UserError(f"{where}: {'.'.join(keys[:8])}: {fault}")


def _merge_rules(data: dict[str, Any]) -> None:
    """Merges [filter.rules] into the default rules: `true` adds a rule, `false` removes one.

    Under select.reasoning = "none" no rule requires reasoning. Raises UserError for an unknown name that
    `false` would hide. Values of the wrong type are left to the validation.
    """
    table, select = data.setdefault("filter", {}), data.get("select", {})
    given = table.get("rules", {}) if isinstance(table, dict) else None
    if not isinstance(given, dict):
        return
    check_names(name for name, value in given.items() if value is False)
    merged: dict[str, Any] = {**Filter().rules, **given}
    merged = {name: {} if value is True else value for name, value in merged.items() if value is not False}
    if isinstance(select, dict) and select.get("reasoning") == "none":
        for name in merged.keys() & REASONING_OPTIONAL.keys():
            if isinstance(merged[name], dict):
                merged[name] = REASONING_OPTIONAL[name] | merged[name]
    table["rules"] = merged
