"""What became of the traces: funnel, difficulty, lengths, sources, contamination, as the page shows them."""

from __future__ import annotations

from typing import Any

from pipeline.filter.funnel import Funnel
from pipeline.inspect.run import Run
from pipeline.report import charts
from pipeline.report import tally as tallies
from pipeline.report.tally import BANDS, Tally, bins, quantiles

_OUTCOMES = ("kept", "rejected", "undecided", "unfiltered")
_DRAWN = 24  # outcomes and reasons in the chart of the funnel; the table has all


def funnel(run: Run) -> dict[str, Any]:
    """Each reason with its traces and share; the rules, whatever the others say."""
    report = run.report("filter")
    counted = Funnel.model_validate(report) if report else run.why()
    reasons = [
        *(("rejected", reason, count) for reason, count in counted.rejected.items()),
        *(("undecided", reason, count) for reason, count in counted.unknown.items()),
    ]
    share = 100 / max(counted.traces, 1)
    rows: list[dict[str, Any]] = [{"name": "kept", "what": "kept", "traces": counted.kept}]
    rows += [{"name": reason, "what": what, "traces": count} for what, reason, count in reasons]
    return {
        "traces": counted.traces,
        "kept": counted.kept,
        "share": share * counted.kept,
        "reasons": [(what, reason, count, share * count) for what, reason, count in reasons],
        "rules": {name: rule.model_dump() for name, rule in counted.rules.items()},
        "chart": charts.stacked(rows[:_DRAWN], "traces", [row["name"] for row in rows[:_DRAWN]]),
    }


def difficulty(traces: Tally) -> dict[str, Any] | None:
    if not traces.problems:
        return None
    rows = [
        {"name": band, "what": what, "traces": traces.banded[band, what]}
        for what in _OUTCOMES
        for band in BANDS
        if traces.banded[band, what]
    ]
    shown = [{"name": band, "value": traces.problems[band]} for band in BANDS]
    return {
        "problems": charts.bars(shown, "problems"),
        "traces": charts.stacked(rows, "traces", BANDS),
        "unrated": traces.unrated,
        "table": [
            (
                band,
                traces.problems[band],
                traces.banded[band, "kept"],
                sum(traces.banded[band, o] for o in _OUTCOMES),
            )
            for band in BANDS
        ],
    }


def lengths(traces: Tally) -> dict[str, Any] | None:
    if not traces.lengths:
        return None
    return {
        "chart": charts.histogram(bins(traces.lengths), "completion tokens of a trace"),
        "quantiles": {
            what: (int(counts.sum()), *quantiles(counts)) for what, counts in traces.lengths.items()
        },
        "uncounted": traces.uncounted,
    }


def sources(traces: Tally) -> dict[str, Any]:
    names = sorted({source for source, _ in traces.outcomes})
    values = [
        {"name": name, "what": what, "traces": traces.outcomes[name, what]}
        for what in _OUTCOMES
        for name in names
        if traces.outcomes[name, what]
    ]
    rows = [(name, *(traces.outcomes[name, what] for what in _OUTCOMES)) for name in names]
    return {"rows": rows, "chart": charts.stacked(values, "traces", names) if len(names) <= 40 else None}


def hits(run: Run) -> dict[str, Any] | None:
    """What the rule against contaminated problems found; None where the recipe names no evaluation set."""
    if run.recipe.filter.contamination is None:
        return None
    count, found = tallies.hits(run.rows("filter").paths)
    return {"count": count, "shown": [hit._asdict() for hit in found]}
