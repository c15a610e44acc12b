"""The parts of a report on the traces: funnel, difficulty, lengths, sources, contamination."""

from __future__ import annotations

from typing import Any

from pipeline.filter.funnel import Funnel
from pipeline.inspect import diversity as diverse
from pipeline.inspect.run import Run
from pipeline.report import charts
from pipeline.report import tally as tallies
from pipeline.report.tally import BANDS, Tally, bins, quantiles

_OUTCOMES = ("kept", "rejected", "undecided", "unfiltered")
_FUNNEL_BARS = 24  # in the chart of the funnel; the table has all reasons
_SOURCE_BARS = 40  # with more sources there is no chart


def funnel(run: Run) -> dict[str, Any]:
    """Traces and share of each reason, and each rule on its own."""
    report = run.report("filter")
    counted = Funnel.model_validate(report) if report else run.why()
    reasons = [
        (outcome, reason, count)
        for outcome in ("rejected", "undecided")
        for reason, count in getattr(counted, outcome).items()
    ]
    traces = max(counted.traces, 1)
    parts = [("kept", "kept", counted.kept), *reasons][:_FUNNEL_BARS]
    bars = [{"name": reason, "what": outcome, "traces": count} for outcome, reason, count in parts]
    return {
        "traces": counted.traces,
        "kept": counted.kept,
        "share": counted.kept / traces,
        "reasons": [(*reason, reason[-1] / traces) for reason in reasons],
        "rules": {name: rule.model_dump() for name, rule in counted.rules.items()},
        "chart": charts.stacked(bars, "traces", [bar["name"] for bar in bars]),
    }


def difficulty(traces: Tally) -> dict[str, Any] | None:
    """Problems by pass rate, and the outcomes of their traces; None when no problem has a pass rate."""
    if not traces.problems:
        return None
    bars = [
        {"name": band, "what": outcome, "traces": traces.banded[band, outcome]}
        for outcome in _OUTCOMES
        for band in BANDS
        if traces.banded[band, outcome]
    ]
    problems = [{"name": band, "value": traces.problems[band]} for band in BANDS]
    return {
        "problems": charts.bars(problems, "problems"),
        "traces": charts.stacked(bars, "traces", BANDS),
        "unrated": traces.unrated,
    }


def lengths(traces: Tally) -> dict[str, Any] | None:
    """Completion tokens by grade; None when no trace has a token count."""
    if not traces.lengths:
        return None
    return {
        "chart": charts.histogram(bins(traces.lengths), "completion tokens of a trace"),
        "quantiles": {
            grade: (int(counts.sum()), *quantiles(counts)) for grade, counts in traces.lengths.items()
        },
        "uncounted": traces.uncounted,
    }


def diversity(run: Run) -> dict[str, Any] | None:
    """How different the traces are, beside the parent run where there is one; None without traces."""
    found = diverse.diversity_of(run)
    if found is None:
        return None
    sides = [("kept", found.kept), ("all", found.all)]
    rows = [
        (f"{label}, {name} traces", diverse.text(each, field))
        for name, each in sides
        for field, label in diverse.LABELS.items()
    ]
    changes = [(diverse.sentence(change), change.less_diverse) for change in found.changes]
    counts = [(name, each.traces, each.problems) for name, each in sides if each]
    return {"rows": rows, "counts": counts, "parent": found.parent, "changes": changes}


def sources(traces: Tally) -> dict[str, Any]:
    """Traces of each source by outcome."""
    names = sorted({source for source, _ in traces.outcomes})
    bars = [
        {"name": name, "what": outcome, "traces": traces.outcomes[name, outcome]}
        for outcome in _OUTCOMES
        for name in names
        if traces.outcomes[name, outcome]
    ]
    rows = [(name, *(traces.outcomes[name, outcome] for outcome in _OUTCOMES)) for name in names]
    few = len(names) <= _SOURCE_BARS
    return {
        "rows": rows,
        "chart": charts.stacked(bars, "traces", names) if few else None,
    }


def hits(run: Run) -> dict[str, Any] | None:
    """Traces that the contamination rule rejects; None when the recipe names no evaluation set."""
    if run.recipe.filter.contamination is None:
        return None
    count, found = tallies.hits(run.rows("filter"))
    return {"count": count, "shown": [hit._asdict() for hit in found]}
