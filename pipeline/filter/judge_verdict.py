"""Reads the verdict in an LLM judge's response and turns it into a filter result. Pure functions.

A free-text answer has no form that a program could compare with the reference, so a model compares them. Its
response is untrusted: only a last line in the requested form is a verdict, everything else is undecided.
"""

from __future__ import annotations

import hashlib
import json
import re

from filters.grade.grader import TEXT_LIMIT
from filters.result import EVIDENCE_LIMIT, FilterResult
from pipeline.engine.shard import Shard
from pipeline.rows import AnswerType, FilterOutcome, JudgeVerdict

JUDGE_FAILED = "judge_failed"  # the reason of a verdict whose request failed
_OUTCOMES: dict[str, tuple[FilterOutcome, str]] = {
    "correct": ("passed", ""),
    "incorrect": ("failed", "incorrect"),
    "unclear": ("undecided", "unclear"),
}
# Models may use bold, a full stop or lower case on that line, but may not add a word.
_VERDICT = re.compile(r"[\W_]*verdict[\W_]+(correct|incorrect|unclear)[\W_]*", re.IGNORECASE)


def read_verdict(response: str, finish_reason: str) -> tuple[FilterOutcome, str]:
    """The outcome and its reason; "unclear" unless a complete response ends in a verdict line.

    Earlier lines do not count because they may quote the judged response, including verdicts stated in it. So
    may the last line of a response that is truncated or was filtered by the server.
    """
    lines = response.rstrip().splitlines()
    match = _VERDICT.fullmatch(lines[-1]) if lines and finish_reason == "stop" else None
    return _OUTCOMES[match[1].lower() if match else "unclear"]


def needs_judge(answer_type: AnswerType, reference: str | None, response: str) -> bool:
    """Whether the judge compares this response: free text with a reference, neither empty nor too long."""
    return answer_type == "free" and bool(reference) and 0 < len(response.strip()) <= TEXT_LIMIT


def verdict_key(question: str, reference: str | None, response: str) -> str:
    """Hash of the judged texts; traces with equal texts share a verdict."""
    return hashlib.sha256(json.dumps([question, reference, response]).encode()).hexdigest()[:32]


def results_by_key(verdicts: Shard) -> dict[str, FilterResult]:
    """The results of the rule `correct`, by verdict key, from a sealed shard of judge verdicts."""
    return {verdict.id: _result(verdict) for verdict in verdicts.rows()}


def _result(verdict: JudgeVerdict) -> FilterResult:
    evidence = (verdict.error or verdict.answer)[-EVIDENCE_LIMIT:]  # the verdict is at the end
    return FilterResult(verdict.outcome, verdict.reason, evidence, "judge")
