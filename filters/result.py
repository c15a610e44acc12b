"""The result of applying one filter to one trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.rows import FilterOutcome

EVIDENCE_LIMIT = 500  # characters


class FilterResult(NamedTuple):
    outcome: FilterOutcome
    reason: str  # a short code that can be counted; "" if the trace passed
    evidence: str | None = None  # the extracted answer or the matched text
    layer: str = ""  # the grading layer that decided; shown to people, not stored


def passed(evidence: str | None = None) -> FilterResult:
    return FilterResult("passed", "", shorten(evidence))


def failed(reason: str, evidence: str | None = None) -> FilterResult:
    return FilterResult("failed", reason, shorten(evidence))


def undecided(reason: str, evidence: str | None = None) -> FilterResult:
    """An undecided trace is never trained on, and never counts as incorrect."""
    return FilterResult("undecided", reason, shorten(evidence))


def shorten(evidence: str | None) -> str | None:
    """Limits the evidence to EVIDENCE_LIMIT characters, since it is stored with every trace."""
    if evidence is None or len(evidence) <= EVIDENCE_LIMIT:
        return evidence
    return evidence[: EVIDENCE_LIMIT - 1] + "…"
