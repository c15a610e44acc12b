"""What a filter says of one trace: fit, failed or cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.rows import FilterOutcome

EVIDENCE_LIMIT = 500  # characters


class FilterResult(NamedTuple):
    outcome: FilterOutcome
    reason: str  # a short code that can be counted; "" when it passed
    evidence: str | None = None  # the extracted answer, the matched text
    layer: str = ""  # which layer of verification decided; for people, not stored


def passed(evidence: str | None = None) -> FilterResult:
    return FilterResult("passed", "", shorten(evidence))


def failed(reason: str, evidence: str | None = None) -> FilterResult:
    return FilterResult("failed", reason, shorten(evidence))


def undecided(reason: str, evidence: str | None = None) -> FilterResult:
    """Never trained on, and never counted as a wrong answer either."""
    return FilterResult("undecided", reason, shorten(evidence))


def shorten(evidence: str | None) -> str | None:
    """Evidence of bounded length: it is stored with every trace."""
    if evidence is None or len(evidence) <= EVIDENCE_LIMIT:
        return evidence
    return evidence[: EVIDENCE_LIMIT - 1] + "…"
