"""What a model is like, found out in a process of its own: sizes, chat template, where its files are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError
from pipeline.train.memory import Shape

TIMEOUT = 600  # seconds: a slow disk and a slow hub


class ModelQuery(BaseModel):
    """A model to look at, and what is to be done with it."""

    model_config = ConfigDict(frozen=True)
    name: str  # as the recipe calls it
    model: str  # hub name or folder
    teach: tuple[dict[str, str], ...] | None = None  # a dialogue that it is to learn; None: it is only asked
    reasoning: str = "tags"  # select.reasoning: in which form it is taught
    served_template: str | None = None  # as vLLM takes it, when it is served with another than its own


class ModelFacts(BaseModel):
    """What is known of a model; None is unknown."""

    model_config = ConfigDict(frozen=True)
    name: str  # as the recipe calls it
    fault: str = ""  # why it cannot be had, in one line
    unread: str = ""  # why its sizes are not known
    parameters: int | None = None
    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    vocabulary: int | None = None
    tied: bool = False  # one matrix for embeddings and head
    context: int | None = None  # positions that it was made for
    config: dict[str, Any] = {}  # of its text model, as transformers reads it
    weight_bytes: int | None = None  # of its files
    downloaded: bool = False
    template_fault: str = ""  # why it cannot be asked or taught by its chat template

    def shape(self, layers: int | None = None) -> Shape | None:
        """The sizes that decide memory, of the model or of it cut to so many layers; None when unknown."""
        sizes = (self.parameters, self.layers, self.hidden, self.intermediate, self.vocabulary)
        if None in sizes:
            return None
        whole = Shape(*sizes, tied=self.tied)  # type: ignore[arg-type]
        return whole if layers is None else whole.cut_to(layers)


def ask(queries: Sequence[ModelQuery]) -> list[ModelFacts]:
    """Answers, in the order of the queries. Raises UserError where transformers cannot be had."""
    if not queries:
        return []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([query.model_dump() for query in queries], file)
        file.flush()
        program = [sys.executable, "-P", "-m", "pipeline.train.trainer.read_model", file.name]
        environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    try:
        return [ModelFacts.model_validate(given) for given in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"the models cannot be looked at: {Path(program[0]).name}: {said[0]}") from None
