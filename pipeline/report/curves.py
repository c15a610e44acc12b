"""The training's curves, from its log where it is still at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.inspect.run import Run
from pipeline.report import charts
from pipeline.rows import Step
from pipeline.train.job import read_steps

POINTS = 400  # of a curve


def training(run: Run) -> dict[str, Any] | None:
    """The curves, from the log where the training is still at work."""
    folder = run.output("train").folder
    steps = list(run.rows("train")) if run.rows("train").paths else read_steps(folder / "log.jsonl")
    if not steps:
        return None
    curves = [
        ("loss", charts.lines(rows, "step"))
        if (rows := [*curve(steps, "loss"), *curve(steps, "validation_loss", "validation")])
        else ("loss", None),
        *(
            (title, charts.lines(rows, "step", shown, height=130))
            for field, title, shown in (
                ("learning_rate", "learning rate", "~e"),
                ("grad_norm", "gradient norm", "~g"),
                ("tokens_per_second", "tokens a second", ",~f"),
            )
            if (rows := curve(steps, field, title))
        ),
    ]
    return {"steps": steps[-1].steps, "done": steps[-1].step, "curves": curves, "report": run.report("train")}


def curve(steps: Sequence[Step], field: str, what: str = "training") -> list[dict[str, Any]]:
    """One field of the steps that have it, POINTS of them at most, the last one among them."""
    rows = [
        {"x": step.step, "y": value, "what": what}
        for step in steps
        if (value := getattr(step, field)) is not None and abs(value) < float("inf")
    ]
    every = -(-len(rows) // POINTS) or 1
    return rows[::-1][::every][::-1]
