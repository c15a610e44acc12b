"""Facts about models (sizes, chat template, location), read by a subprocess because transformers is slow."""

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

from pipeline.config.mix import ThinkingSwitch
from pipeline.errors import Stopped, UserError
from pipeline.inference.pruning import Pruning
from pipeline.train.memory import Shape

TIMEOUT = 600  # seconds: a slow disk and a slow hub


class ModelQuery(BaseModel):
    """A model to read, and the dialogue that it must be able to learn."""

    model_config = ConfigDict(frozen=True)
    name: str  # as the recipe calls it
    model: str  # hub name or folder
    teach: tuple[dict[str, str], ...] | None = None  # messages of a training example; None: not a student
    reasoning: str = "tags"  # select.reasoning: how the messages hold reasoning
    mixed: bool = False  # whether it must be able to learn the response without reasoning too
    thinking_switch: ThinkingSwitch | None = None  # select.thinking_switch
    served_template: str | None = None  # as vLLM takes it; None: the tokenizer's own
    pruning: Pruning | None = None  # that it must allow
    teachers: tuple[str, ...] = ()  # hub names or folders of models whose vocabulary must be its own
    equal_logits: bool = False  # whether they must have as many logits, too


class ModelFacts(BaseModel):
    """What the files of a model tell without its weights; None where unknown."""

    model_config = ConfigDict(frozen=True)
    name: str  # as the recipe calls it
    fault: str = ""  # why it cannot be loaded, in one line
    unread: str = ""  # why its sizes are unknown
    parameters: int | None = None
    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    vocabulary: int | None = None
    tied: bool = False  # embeddings and head share one matrix
    context: int | None = None  # maximum positions
    config: dict[str, Any] = {}  # of its text model, as transformers reads it
    weight_bytes: int | None = None  # of its files
    downloaded: bool = False
    template_fault: str = ""  # why its chat template cannot render a prompt or the dialogue to learn
    pruning_fault: str = ""  # why it cannot be pruned as wanted
    vocabulary_fault: str = ""  # why a teacher cannot be compared with it token by token

    def shape(self, pruning: Pruning | None = None) -> Shape | None:
        """The sizes of the model, or of what is left after a pruning; None when one is unknown."""
        sizes = (self.parameters, self.layers, self.hidden, self.intermediate, self.vocabulary)
        if None in sizes:
            return None
        whole = Shape(*sizes, tied=self.tied)  # type: ignore[arg-type]
        if pruning is None:
            return whole
        layers, intermediate = pruning.layers or whole.layers, pruning.intermediate_size or whole.intermediate
        return whole.pruned_to(layers, intermediate, self._of_heads(pruning.heads) if pruning.heads else 0)

    def _of_heads(self, kept: int) -> float:
        """The parameters of the other heads in a layer: queries and outputs, and shared keys and values."""
        heads = self.config.get("num_attention_heads") or kept
        groups = self.config.get("num_key_value_heads") or heads
        size = self.config.get("head_dim") or (self.hidden or 0) // heads
        return 2 * (self.hidden or 0) * size * (heads + groups) * (1 - kept / heads)


def read_facts(queries: Sequence[ModelQuery]) -> list[ModelFacts]:
    """The facts of each query's model, in order.

    Raises UserError where transformers is not installed, and Stopped after TIMEOUT.
    """
    if not queries:
        return []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([query.model_dump() for query in queries], file)
        file.flush()
        program = [sys.executable, "-P", "-m", "pipeline.train.trainer.read_model", file.name]
        environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            slow = "a slow disk or hub, or a busy machine; try again"
            raise Stopped(f"the models were not read within {TIMEOUT} s: {slow}") from None
    try:
        return [ModelFacts.model_validate(facts) for facts in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError):
        error = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"the models cannot be read: {Path(program[0]).name}: {error[0]}") from None
