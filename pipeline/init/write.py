"""Writes a commented recipe for a file of problems or traces, for `retort init`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import shipped
from pipeline.config import Recipe
from pipeline.config.ingest import Ingest
from pipeline.config.load import parse_recipe
from pipeline.errors import UserError

COLUMN = 34  # where comments begin


def write(path: Path, source: Mapping[str, Any], models: Mapping[str, str | None]) -> Recipe:
    """Writes the recipe of a run named after the file, and returns it as it loads.

    `models`: model, base_url, api_key_env and student; None where there is none. Raises UserError if the file
    exists or cannot be written, or for settings that make no recipe.
    """
    text = _render(path.name.removesuffix(".toml"), source, models)
    recipe = parse_recipe(tomllib.loads(text), (), str(path))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: exists already; give the new recipe another name with --out") from None
    return recipe


def _render(run: str, source: Mapping[str, Any], models: Mapping[str, str | None]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((Path(__file__).parent / "recipe.toml.jinja").read_text("utf-8"))
    read_as = type(Ingest.model_validate({"sources": [source]}).sources[0])
    meanings = {name: read_as.model_fields[name].description or "" for name in source}
    return template.render(
        run=run,
        schema=(shipped.RECIPES / "recipe.schema.json").as_uri(),
        page=shipped.page,
        graded=bool(source.get("reference") or source.get("tests")),
        settings=[_line(name, value, _gist(meanings[name])) for name, value in source.items()],
        line=_line,
        **models,
    )


def _line(name: str, value: Any, meaning: str) -> str:
    return f"{name} = {json.dumps(value, ensure_ascii=False)}".ljust(COLUMN - 1) + f" # {meaning}"


def _gist(meaning: str) -> str:
    """The beginning of a setting's meaning, as a comment."""
    text = re.split(r"[.:](?: |$)", " ".join(meaning.split()))[0]
    return text[:1].lower() + text[1:]
