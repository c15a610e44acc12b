"""What a judge model's answer says, and what follows from it for a trace. Pure functions.

A response in free text has no form that a program could compare with the reference, so a model is asked. Its
words are untrusted as any model's: only a last line in the one form that was asked for is a verdict, all else
is "cannot tell". Leaves out who asks it (stages/judge.py).
"""

from __future__ import annotations

import hashlib
import json
import re

from filters.grade.grader import TEXT_LIMIT
from filters.result import EVIDENCE_LIMIT, FilterResult
from pipeline.engine.shard import Shard
from pipeline.rows import AnswerType, FilterOutcome, JudgeVerdict

FAILED = "judge_failed"  # the reason of an opinion that could not be had
_OUTCOMES: dict[str, tuple[FilterOutcome, str]] = {
    "correct": ("passed", ""),
    "incorrect": ("failed", "wrong"),
    "unclear": ("undecided", "unclear"),
}
# Models set the line in bold, add a full stop, write it in small letters; they may not add a word.
_VERDICT = re.compile(r"[\W_]*verdict[\W_]+(correct|incorrect|unclear)[\W_]*", re.IGNORECASE)


def read_verdict(answer: str, finish_reason: str) -> tuple[FilterOutcome, str]:
    """The outcome and its reason; "unclear" where the answer does not end in a verdict.

    Earlier lines may quote the response, verdicts that it states included, and so may an answer that did not
    end by itself: cut, filtered, failed.
    """
    lines = answer.rstrip().splitlines()
    match = _VERDICT.fullmatch(lines[-1]) if lines and finish_reason == "stop" else None
    return _OUTCOMES[match[1].lower() if match else "unclear"]


def is_judged(answer_type: AnswerType, reference: str | None, response: str) -> bool:
    """Whether a judge is asked: for a free answer where there is something to compare."""
    return answer_type == "free" and bool(reference) and 0 < len(response.strip()) <= TEXT_LIMIT


def opinion_id(question: str, reference: str | None, response: str) -> str:
    """What an opinion is about, as a hash: traces with the same texts share one."""
    return hashlib.sha256(json.dumps([question, reference, response]).encode()).hexdigest()[:32]


def findings(judge_verdicts: Shard) -> dict[str, FilterResult]:
    """What a sealed shard of judge_verdicts says of the rule `correct`, by the opinion's id."""
    return {opinion.id: _finding(opinion) for opinion in judge_verdicts.rows()}


def _finding(opinion: JudgeVerdict) -> FilterResult:
    """The end of the answer is the evidence: the verdict stands there."""
    said = opinion.error or opinion.answer
    return FilterResult(opinion.outcome, opinion.reason, said[-EVIDENCE_LIMIT:], "judge")
