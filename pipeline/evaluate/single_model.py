"""A recipe for one model and one file of problems, to evaluate without writing one; it trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.load import recipe_of
from pipeline.inference import model_files
from pipeline.ingest import files


def recipe_alone(
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
    """The recipe whose ingest and evaluate score `model` on `problems`; with no `base_url` vLLM serves it.

    None leaves a setting at its default. The run is called after the model and the file. Raises UserError.
    """
    name = f"{model_files.label(model)}-{model_files.label(files.without_suffix(Path(problems).name))}"
    source = {"kind": "file", "path": problems, "split": "held_out"}
    columns = {"question": question, "reference": answer, "answer_type": answer_type}
    reached = {"base_url": base_url} if base_url else {"serve": "vllm"}
    key = {"api_key_env": api_key_env} if api_key_env else {}
    data: dict[str, Any] = {
        "run": name.lstrip("_"),
        "ingest": {"sources": [source | {k: v for k, v in columns.items() if v is not None}]},
        "teacher": {"model": model, **reached, **key},
        "generate": {"prompt": prompt or "plain"},
    }
    return recipe_of(data, overrides, "evaluate")
