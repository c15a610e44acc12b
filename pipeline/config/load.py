"""Reads a recipe: TOML and key=value overrides in, checked models (config/) out, a mistake in one line."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import filters
from pipeline.config import Recipe
from pipeline.config.endpoints import Judge, Teacher
from pipeline.config.redaction import HIDDEN, shareable
from pipeline.config.sources import DatasetSource, FileSource, GymSource
from pipeline.config.traces import Filter
from pipeline.errors import UserError, nearest

DEEPEST = 20  # tables within tables

# What rules are told where select.reasoning = "none", unless the recipe says otherwise.
THOUGHT_OPTIONAL: dict[str, dict[str, Any]] = {
    "single_reasoning": {"required": False},
    "length": {"min_thought": 0},
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. Raises UserError, one line, naming the key and the nearest known one."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UserError(f"{path}: not a TOML recipe: {e}") from None
    except RecursionError:
        raise UserError(f"{path}: not a TOML recipe: nested too deeply") from None
    return recipe_of(data, overrides, str(path))


def recipe_of(data: dict[str, Any], overrides: Sequence[str], where: str) -> Recipe:
    """Check a recipe as TOML has it; `where` it comes from begins an error. Raises UserError, one line."""
    for override in overrides:
        _apply(data, override)
    _check_values(data, where)
    _merge_rules(data)
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        one_teacher = isinstance(data.get("teacher"), dict)
        raise UserError(f"{where}: {_explain(e, one_teacher)}") from None


def shown(override: str) -> str:
    """An override as it may be printed, without a secret that it holds."""
    key, _, text = override.partition("=")
    given: Any = _value(key, text)
    for step in reversed(key.strip().split(".")):
        given = {step: given}
    return override if shareable(given) == given else f"{key}={HIDDEN}"


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
    if isinstance(at, list):
        at[_index(at, last, key)] = value
    else:
        at[last] = value


def _check_values(data: dict[str, Any], where: str) -> None:
    """Raise UserError for what TOML can write and no setting can be: no number, a NUL, tables without end."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while todo:
        keys, value = todo.pop()
        what = None
        if isinstance(value, dict | list):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [((*keys, str(key)), below) for key, below in inside]
            what = "nested too deeply" if len(keys) > DEEPEST else None
        elif isinstance(value, float) and not math.isfinite(value):
            what = f"{value} is no number to set anything to"
        elif isinstance(value, int) and abs(value) >= 2**63:
            what = "a number of more than 64 bits"
        elif isinstance(value, str) and "\0" in value:
            what = "a text with a NUL character"
        if what:
            raise UserError(f"{where}: {'.'.join(keys[:8])}: {what}")


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


def _merge_rules(data: dict[str, Any]) -> None:
    """Lay the rules of [filter.rules] over the default ones: `true` adds one, `false` switches one off.

    Where no thought is taught, none is asked for. Raises UserError for an unknown name, which `false` would
    else hide. What is no table is left for the model to refuse.
    """
    table, select = data.setdefault("filter", {}), data.get("select", {})
    given = table.get("rules", {}) if isinstance(table, dict) else None
    if not isinstance(given, dict):
        return
    filters.check_rules({name: {} for name, said in given.items() if said is False})
    merged = {name: {} if said is True else said for name, said in (Filter().rules | given).items()}
    if isinstance(select, dict) and select.get("reasoning") == "none":
        for name in merged.keys() & THOUGHT_OPTIONAL.keys():
            if isinstance(merged[name], dict):
                merged[name] = THOUGHT_OPTIONAL[name] | merged[name]
    table["rules"] = {name: said for name, said in merged.items() if said is not False}


def _explain(error: ValidationError, one_teacher: bool) -> str:
    """The first mistake in one line; a count of the others."""
    first, others = error.errors()[0], error.error_count() - 1
    loc = [str(p) for p in first["loc"] if p not in ("file", "dataset", "reasoning_gym")]
    if one_teacher and loc[:2] == ["teacher", "0"]:
        del loc[1]  # it was written as [teacher]
    where = ".".join(loc)
    if first["type"] == "extra_forbidden":
        what = f"unknown key {where!r}" + nearest(str(first["loc"][-1]), _known_keys(first["loc"][:-1]))
    elif first["type"] == "missing":
        what = f"missing key {where!r}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        secret = (
            where.endswith("api_key_env") or ".env." in where
        )  # somebody may have put the key itself there
        value = "" if secret or isinstance(first["input"], dict | list) else f" (found {first['input']!r})"
        what = f"{where}: {message}{value}" if where else f"{message}{value}"
    return what + (f" (and {others} more)" if others else "")


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    kinds: dict[str, Any] = {"file": FileSource, "dataset": DatasetSource, "reasoning_gym": GymSource}
    kinds |= {"teacher": Teacher, "judge": Judge}
    table: Any = Recipe
    for step in loc:
        if step in kinds:
            table = kinds[str(step)]
        elif table is Recipe:
            table = Recipe.model_fields[str(step)].annotation
    return list(table.model_fields)
