"""What a filter says of one trace: fit, unfit or cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.rows import Passed

EVIDENCE_LIMIT = 500  # characters


class Finding(NamedTuple):
    outcome: Passed
    reason: str  # a short code that can be counted; "" when it passed
    evidence: str | None = None  # the extracted answer, the matched text
    layer: str = ""  # which layer of verification decided; for people, not stored


def fit(evidence: str | None = None) -> Finding:
    return Finding("pass", "", shorten(evidence))


def unfit(reason: str, evidence: str | None = None) -> Finding:
    return Finding("fail", reason, shorten(evidence))


def cannot_tell(reason: str, evidence: str | None = None) -> Finding:
    """Never trained on, and never counted as a wrong answer either."""
    return Finding("unknown", reason, shorten(evidence))


def shorten(evidence: str | None) -> str | None:
    """Evidence of bounded length: it is stored with every trace."""
    if evidence is None or len(evidence) <= EVIDENCE_LIMIT:
        return evidence
    return evidence[: EVIDENCE_LIMIT - 1] + "…"
