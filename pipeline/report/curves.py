"""The training's curves, from its log while it is still running."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from pipeline.inspect.run import Run
from pipeline.model_rows import Step
from pipeline.report import charts
from pipeline.train.job import read_steps

POINTS = 400  # most points of a curve
_SMALL = (  # field, title, number format
    ("loss_features", "hidden states (train.features)", "~g"),
    ("loss_attention_transfer", "attention (train.attention_transfer)", "~g"),
    ("loss_relations", "relations (train.relations)", "~g"),
    ("sample_tokens", "tokens of the student's samples", ",~f"),
    ("truncated", "share of the samples that were truncated", "~%"),
    ("learning_rate", "learning rate", "~e"),
    ("grad_norm", "gradient norm", "~g"),
    ("tokens_per_second", "tokens per second", ",~f"),
)


def training(run: Run) -> dict[str, Any] | None:
    """Titles with charts, steps done and the report of train; None before the first step."""
    steps = list(run.rows("train")) or read_steps(run.output("train").folder / "log.jsonl")
    if not steps:
        return None
    loss = [*curve(steps, "loss"), *curve(steps, "validation_loss", "validation")]
    curves = [("loss", charts.lines(loss, "step") if loss else None)]
    for field, title, number in _SMALL:
        if rows := curve(steps, field, title):
            curves.append((title, charts.lines(rows, "step", number, height=130)))
    return {"steps": steps[-1].steps, "done": steps[-1].step, "curves": curves, "report": run.report("train")}


def curve(steps: Sequence[Step], field: str, what: str = "training") -> list[dict[str, Any]]:
    """At most POINTS finite values of a field, the last one among them."""
    rows = [
        {"x": step.step, "y": value, "what": what}
        for step in steps
        if (value := getattr(step, field)) is not None and isfinite(value)
    ]
    every = -(-len(rows) // POINTS) or 1
    return rows[::-1][::every][::-1]
