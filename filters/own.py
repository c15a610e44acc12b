"""Filters of the user's own, named "my_rules.py:function" or "package.module:function"."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from filters.result import FilterResult
from pipeline.errors import UserError, nearest


@cache
def load(name: str) -> tuple[Callable[..., FilterResult], int]:
    """Returns the function and its version: a checksum of the file that defines it.

    A file is looked for in the current folder, a module among the installed ones. Raises UserError if it
    cannot be imported or has no such function.
    """
    place, _, function_name = name.rpartition(":")
    where = f"filter.rules.{name!r}"
    file = Path(place) if place.endswith(".py") else None
    if file and not file.is_file():
        raise UserError(f"{where}: no file {place!r} in {Path.cwd()}")
    try:
        module = _from_file(file) if file else importlib.import_module(place)
    except Exception as e:  # any fault of the user's module
        raise UserError(f"{where}: cannot import {place}: {type(e).__name__}: {e}") from e
    functions = [key for key, value in vars(module).items() if callable(value)]
    if function_name not in functions:
        guess = nearest(function_name, functions)
        raise UserError(f"{where}: {place} has no function {function_name!r}{guess}")
    return getattr(module, function_name), zlib.crc32(Path(str(module.__file__)).read_bytes())


def _from_file(path: Path) -> ModuleType:
    """Runs a file as a module of its own, which no import of others finds."""
    spec = importlib.util.spec_from_file_location(f"own_filters_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
