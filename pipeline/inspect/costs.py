"""What traces cost, by teacher and source, read from the shards: tokens, money, and money per trace kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.generate.usage import price
from pipeline.inspect.run import Run
from pipeline.rows import Row

_FIELDS = ("teacher", "source", "prompt_tokens", "completion_tokens")


class Cost(Row):
    """The traces of one teacher for the problems of one source."""

    teacher: str
    source: str
    traces: int
    prompt_tokens: int | None  # of the traces with counts; None where there are none, as with spend
    completion_tokens: int | None
    uncounted: int  # traces whose server sent no token counts: what stands here is then the least
    spend: float | None  # None, too, where the recipe gives no price
    kept: int | None  # None before they were filtered

    @property
    def per_kept(self) -> float | None:
        return self.spend / self.kept if self.spend is not None and self.kept else None


def costs(run: Run) -> list[Cost]:
    """What the generate stage has cost so far: sealed shards and open journals together."""
    endpoints = {teacher.display_name: teacher for teacher in run.recipe.teacher}
    kept = _kept(run)
    rows = []
    for (teacher, source), used in sorted(_used(run).items()):
        endpoint = endpoints.get(teacher)
        known = used["uncounted"] < used["traces"]
        spend = price(endpoint, used["prompt"], used["completion"]) if endpoint and known else None
        rows.append(
            Cost(
                teacher=teacher,
                source=source,
                traces=used["traces"],
                prompt_tokens=used["prompt"] if known else None,
                completion_tokens=used["completion"] if known else None,
                uncounted=used["uncounted"],
                spend=spend,
                kept=None if kept is None else kept[teacher, source],
            )
        )
    return rows


def _used(run: Run) -> dict[tuple[str, str], Counter[str]]:
    used: dict[tuple[str, str], Counter[str]] = {}
    for teacher, source, traces, prompt, completion, counted in (*_sealed(run), *_open(run)):
        used.setdefault((teacher, source), Counter()).update(
            traces=traces, prompt=prompt or 0, completion=completion or 0, uncounted=traces - counted
        )
    return used


def _sealed(run: Run) -> Iterator[tuple[Any, ...]]:
    """teacher, source, traces, prompt tokens, completion tokens, traces with a count; summed by Arrow."""
    import pyarrow.compute as pc

    rows = run.rows("generate")
    if rows.paths:
        table = rows.columns(_FIELDS)
        counted = pc.and_(table["prompt_tokens"].is_valid(), table["completion_tokens"].is_valid())
        grouped = table.append_column("counted", counted).group_by(["teacher", "source"])
        sums = grouped.aggregate([([], "count_all"), *((f, "sum") for f in (*_FIELDS[2:], "counted"))])
        for r in sums.to_pylist():
            yield (
                r["teacher"],
                r["source"],
                r["count_all"],
                r["prompt_tokens_sum"],
                r["completion_tokens_sum"],
                r["counted_sum"],
            )


def _open(run: Run) -> Iterator[tuple[Any, ...]]:
    for shard in run.output("generate").shards():
        if not shard.sealed:
            for row in shard.held(_FIELDS).rows.values():
                teacher, source, prompt, completion = (row[f] for f in _FIELDS)
                yield teacher, source, 1, prompt, completion, None not in (prompt, completion)


def _kept(run: Run) -> Counter[tuple[str, str]] | None:
    if not run.output("filter").complete:
        return None
    table = run.rows("filter").columns(("teacher", "source", "outcome"))
    counts = table.group_by(["teacher", "source", "outcome"]).aggregate([([], "count_all")]).to_pylist()
    return Counter({(r["teacher"], r["source"]): r["count_all"] for r in counts if r["outcome"] == "kept"})
