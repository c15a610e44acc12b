"""Builds a recipe that evaluates one model on one file of problems, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.benchmarks import BENCHMARKS, sets_of
from pipeline.config.load import parse_recipe
from pipeline.errors import UserError
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

    `problems` is a file, or names of benchmarks, each of which becomes a set. The run is named after the
    model and the problems. Raises UserError for a setting that is wrong.
    """
    name = f"{model_files.label(model)}-{model_files.label(files.without_suffix(Path(problems).name))}"
    given = {"question": question, "reference": answer, "answer_type": answer_type}
    columns = {k: v for k, v in given.items() if v is not None}
    server = {"base_url": base_url} if base_url else {"serve": "vllm"}
    key = {"api_key_env": api_key_env} if api_key_env else {}
    data: dict[str, Any] = {
        "run": name.lstrip("_"),
        **_problems(problems, columns),
        "teacher": {"model": model, **server, **key},
        "generate": {"prompt": prompt or "plain"},
    }
    return parse_recipe(data, overrides, "evaluate")


def _problems(problems: str, columns: dict[str, str]) -> dict[str, Any]:
    """The tables [ingest] and [evaluate] for a file or for benchmarks.

    A recipe has at least one source, so ingest reads the benchmarks too, and evaluate leaves its copy out.
    """
    if Path(problems).exists() or problems.partition(",")[0].partition("=")[0].strip() not in BENCHMARKS:
        return {"ingest": {"sources": [{"kind": "file", "path": problems, "split": "held_out"} | columns]}}
    if columns:
        raise UserError("--question, --answer and --answer-type are for a file: a benchmark has its own")
    sets = sets_of(problems)
    return {"ingest": {"sources": sets}, "evaluate": {"held_out": False, "sets": sets}}
