"""Builds a recipe that evaluates one model on one file of problems, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.load import parse_recipe
from pipeline.inference import model_files
from pipeline.ingest import files


def single_model_recipe(
    model: str,
    problems: str,
    *,
    base_url: str | None,
    api_key_env: str | None,
    prompt: str | None,
    question: str | None,
    answer: str | None,
    answer_type: str | None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Returns the recipe; without `base_url` vLLM serves the model, and None keeps a setting's default.

    The run is named after the model and the file. Raises UserError for a setting that is wrong.
    """
    name = f"{model_files.label(model)}-{model_files.label(files.without_suffix(Path(problems).name))}"
    source = {"kind": "file", "path": problems, "split": "held_out"}
    columns = {"question": question, "reference": answer, "answer_type": answer_type}
    server = {"base_url": base_url} if base_url else {"serve": "vllm"}
    key = {"api_key_env": api_key_env} if api_key_env else {}
    data: dict[str, Any] = {
        "run": name.lstrip("_"),
        "ingest": {"sources": [source | {k: v for k, v in columns.items() if v is not None}]},
        "teacher": {"model": model, **server, **key},
        "generate": {"prompt": prompt or "plain"},
    }
    return parse_recipe(data, overrides, "evaluate")
