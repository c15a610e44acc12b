"""Tokens and money that traces cost, by teacher and source: in all, and for each kept trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.generate.price import price
from pipeline.generate.usage import EndpointUsage
from pipeline.inspect.run import Run
from pipeline.rows import Row

_FIELDS = ("teacher", "source", "prompt_tokens", "completion_tokens", "sampling")
_SUMS = """
select teacher, source, count(*), sum(prompt_tokens), sum(completion_tokens),
    count(*) filter (prompt_tokens is not null and completion_tokens is not null),
    count(*) filter (sampling is not null and (prompt_tokens is null or completion_tokens is null))
from rows group by teacher, source
"""
_KEPT = "select teacher, source, count(*) from rows where outcome = 'kept' group by teacher, source"


class Cost(Row):
    """The traces of one teacher for the problems of one source."""

    teacher: str
    source: str
    traces: int
    prompt_tokens: int | None  # of the traces with counts; None when no trace has any
    completion_tokens: int | None
    uncounted: int  # sampled traces without token counts: tokens and spend are then lower bounds
    spend: float | None  # None, too, when the recipe gives no price
    kept: int | None  # None before these traces are filtered

    @property
    def per_kept(self) -> float | None:
        return self.spend / self.kept if self.spend is not None and self.kept else None


def costs(run: Run) -> list[Cost]:
    """Returns what the generate stage has cost so far: sealed shards and open journals together."""
    endpoints = {teacher.display_name: teacher for teacher in run.recipe.teacher}
    kept = _kept(run)
    rows = []
    for (teacher, source), used in sorted(_used(run).items()):
        endpoint, counted = endpoints.get(teacher), used["counted"] > 0
        prompt, completion = used["prompt"], used["completion"]
        rows.append(
            Cost(
                teacher=teacher,
                source=source,
                traces=used["traces"],
                prompt_tokens=prompt if counted else None,
                completion_tokens=completion if counted else None,
                uncounted=used["uncounted"],
                spend=price(endpoint, prompt, completion) if endpoint and counted else None,
                kept=None if kept is None else kept[teacher, source],
            )
        )
    return rows


def total_spend(parts: Sequence[Cost | EndpointUsage]) -> float | None:
    """The sum of the spends that are known; None when none is."""
    known = [part.spend for part in parts if part.spend is not None]
    return sum(known) if known else None


def spend_per_kept(parts: Sequence[Cost]) -> float | None:
    """The spend for each kept trace, over the parts whose spend is known; None when there is none."""
    kept = sum(part.kept or 0 for part in parts if part.spend is not None)
    spend = total_spend(parts)
    return spend / kept if spend is not None and kept else None


def _used(run: Run) -> dict[tuple[str, str], Counter[str]]:
    used: dict[tuple[str, str], Counter[str]] = {}
    names = ("traces", "prompt", "completion", "counted", "uncounted")
    for teacher, source, *sums in run.rows("generate").query(_FIELDS, _SUMS):
        used[teacher, source] = Counter({name: n or 0 for name, n in zip(names, sums, strict=True)})
    return used


def _kept(run: Run) -> Counter[tuple[str, str]] | None:
    sampled, filtered = run.output("generate").manifest(), run.output("filter").manifest()
    if filtered is None or sampled is None or not run.output("filter").complete:
        return None
    if filtered.inputs.get("generate") not in (None, sampled.content_id):
        return None  # more was sampled since
    counts = run.rows("filter").query(("teacher", "source", "outcome"), _KEPT)
    return Counter({(teacher, source): count for teacher, source, count in counts})
