"""The summary of a training for its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.engine.stage import Job
from pipeline.inference import model_files
from pipeline.inference.pruning import dropped, pruning_of
from pipeline.model_rows import Step
from pipeline.train.job import read_preflight


def report(job: Job) -> dict[str, Any]:
    """Losses, tokens, what the preflight found, and what was dropped from the student."""
    folder = job.output.folder
    steps: list[Step] = list(job.output.rows())
    preflight = read_preflight(folder / "preflight.json")
    if not steps:
        return {}
    losses = [s.loss for s in steps if s.loss is not None]
    validation = [s.validation_loss for s in steps if s.validation_loss is not None]
    return {
        "steps": steps[-1].steps,
        "tokens": steps[-1].tokens,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "validation_loss": validation[-1] if validation else None,
        "preflight": preflight
        and {
            "examples": preflight.examples,
            "left_out": len(preflight.left_out),
            "supervised": round(preflight.supervised, 4),
            "longest": preflight.longest,
        },
        "generation": model_files.generation(str(folder / "model")),
        **_dropped(job),
    }


def _dropped(job: Job) -> dict[str, Any]:
    """What was dropped from the student and the scores that decided it; {} where nothing was."""
    student = job.recipe.student
    pruning = pruning_of(student, job.run_dir) if student else None
    folder = model_files.existing(student.model, pruning) if student and pruning else None
    return {"pruned": dropped(Path(folder))} if folder else {}
