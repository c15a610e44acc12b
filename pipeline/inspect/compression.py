"""Size, speed and quality of every evaluated model of a run whose student is compressed.

Quality and bytes come from the manifest of evaluate. Speed and memory come from the usage files: they belong
to the machine and its load at that time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.compress.models import compressed_models
from pipeline.evaluate.bootstrap import Estimate
from pipeline.evaluate.metrics import Comparison, Summary
from pipeline.generate import usage
from pipeline.inspect.run import Run
from pipeline.rows import Row


class ModelCost(Row):
    """One model on one set."""

    set: str
    model_role: str
    bytes: int | None  # of a student all files, of other models the weights; None: not known here
    pass_at_1: Estimate
    difference: Estimate | None  # of pass@1 to the whole student, paired; of compressed students only
    greedy_agreement: float | None  # share of problems with the whole student's greedy answer, as text
    tokens_per_second: float | None  # completion tokens over the time of sampling; None: not counted
    memory: int | None  # bytes that the server held at most; None: not measured


class NotEvaluated(Row):
    scheme: str
    bytes: int
    why: str


class Compression(Row):
    models: tuple[ModelCost, ...]
    not_evaluated: tuple[NotEvaluated, ...]  # exported, but not served on the machine that evaluated


def compression_of(run: Run, summaries: Sequence[Summary]) -> Compression | None:
    """The table of a run, in the order of its scores; None if no compressed student was evaluated or made."""
    report = run.report("evaluate")
    if "compressed" not in report:
        return None
    found = [Comparison.model_validate(each) for each in report["compressed"]]
    differences = {(c.set, c.other): c.difference for c in found}
    sizes = {row.id: row.bytes for row in compressed_models(run.path)}
    return Compression(
        models=tuple(_cost(run, s, report, differences.get((s.set, s.model_role))) for s in summaries),
        not_evaluated=tuple(
            NotEvaluated(scheme=scheme, bytes=sizes[scheme], why=why)
            for scheme, why in report["not_evaluated"].items()
            if scheme in sizes
        ),
    )


def _cost(run: Run, s: Summary, report: dict[str, Any], difference: Estimate | None) -> ModelCost:
    agreed = report["greedy_agreement"].get(f"{s.set}/{s.model_role}")
    speed, memory = _measured(run, s)
    return ModelCost(
        set=s.set,
        model_role=s.model_role,
        bytes=report["bytes"].get(s.model_role),
        pass_at_1=s.pass_at[1],
        difference=difference,
        greedy_agreement=agreed["same"] / agreed["problems"] if agreed and agreed["problems"] else None,
        tokens_per_second=speed,
        memory=memory,
    )


def _measured(run: Run, s: Summary) -> tuple[float | None, int | None]:
    """Tokens a second and bytes of memory over all attempts at sampling a model."""
    folder = run.output(f"evaluate/{s.set}/{s.model_role}/generate").folder
    attempts = usage.read_attempts(folder) if folder.is_dir() else ()
    used = [each for attempt in attempts for each in attempt.endpoints]
    seconds = sum(attempt.seconds for attempt in attempts)
    counted = seconds > 0 and not any(each.uncounted for each in used)
    speed = sum(each.completion_tokens for each in used) / seconds if counted else None
    return speed or None, max((a.memory for a in attempts if a.memory is not None), default=None)
