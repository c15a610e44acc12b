"""Filters of a trace's form: did it end by itself, is there one thought, is one answer stated.

None of them asks whether the answer is right; that is `filters.rules.correct`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from filters.extract.answer import Answer, extract
from filters.extract.candidates import alternatives, each, is_answer
from filters.grade.grader import BY_VALUE, TEXT_LIMIT, verify
from filters.grade.json_answer import find_json, is_several
from filters.result import FilterResult, failed, passed, undecided
from filters.text.normalize import normalize_text
from filters.text.turns import next_turn, turn_mark

if TYPE_CHECKING:
    from pipeline.rows import AnswerType, FilterOutcome, Trace

COMPARED = 8  # stated texts that are compared with the answer; comparing may take long

# How models mark a thought: <think> and its kin, Magistral's [THINK], Kimi's ◁think▷, gpt-oss's channel.
_THINK_TAG = re.compile(
    r"</?(?:think(?:ing)?|thoughts?|reasoning)>|\[/?THINK\]|◁/?think▷|<\|channel\|>\s*analysis"
    r"|<\|/?(?:begin_of_|end_of_|start_)?(?:think(?:ing)?|thought|reasoning)\|>",
    re.IGNORECASE,
)
_TALKS = frozenset(("free", "python", "json"))  # answers that may hold "User:" at the start of a line
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_SEVERAL = re.compile(r"\b(?:or|and)\b|[,;±]|\\pm|\\cup", re.IGNORECASE)  # a reference that is a list


def finished(trace: Trace) -> FilterResult:
    """The model ended by itself, and where its turn ends: not cut off at max_tokens, no request that failed,
    no mark of a chat template in the text, no turn of the user that the model imagined.
    """
    if trace.finish_reason == "length":
        return failed("truncated")
    if trace.finish_reason != "stop":
        return failed(trace.finish_reason or "no_finish_reason", trace.error)
    thought, response = trace.reasoning or "", trace.response
    if mark := turn_mark(thought) or turn_mark(response):
        return failed("turn_mark", mark)
    turn = next_turn(thought, trace.question, pair=True) or next_turn(
        response, trace.question, pair=trace.answer_type in _TALKS
    )
    return failed("next_turn", turn) if turn else passed()


def single_reasoning(trace: Trace, *, required: bool = True) -> FilterResult:
    """Exactly one closed, non-empty thought, and something after it; not `required`: or no thought at all.

    The client puts a closed thought into `reasoning` and what follows into `response`; a thought that was
    never closed leaves `response` empty; text whose tags are out of order is left whole in `response`. So a
    tag that is still there, whatever the model calls it, means a second thought, or tags that do not pair;
    between backticks it is only spoken of.
    """
    stray = _stray_tag(trace.reasoning or "") or _stray_tag(trace.response)
    if stray:
        return failed("stray_tags", stray[0])
    if trace.reasoning is None and (required or not trace.response.strip()):
        return failed("no_thought" if trace.response.strip() else "no_response")
    if required and not (trace.reasoning or "").strip():
        return failed("empty_thought")
    if not trace.response:
        return failed("unclosed")
    if not trace.response.strip():
        return failed("no_response")
    return passed()


def _stray_tag(text: str) -> re.Match[str] | None:
    return _THINK_TAG.search(text) and _THINK_TAG.search(_INLINE_CODE.sub(" ", text))


def final_answer(trace: Trace) -> FilterResult:
    """The response states one final answer: boxed, in <answer> tags, after "the answer is", or nothing else.

    A number that merely comes last in a sentence is not a stated answer, though `correct` may judge by it;
    "undecided" or an empty box is none. A free answer is the whole response, a program its last block, JSON
    its one value. All that is stated must have the same value, unless it is the parts of one answer: "x = 1
    and y = 2"; "7 or 8" decides for none, unless the reference is a list.
    """
    whole = _whole(trace)
    if whole is not None:
        return _one_whole(trace, whole)
    answer = extract(trace.response)
    if (
        answer is None
        or answer.how == "last"
        or not is_answer(answer.text, trace.answer_type, trace.reference)
    ):
        return failed("no_answer", answer.text if answer and answer.how != "last" else None)
    kind = trace.answer_type
    others = [(text, firm) for text, firm in each(trace.response) if text not in _spelt(answer)]
    for text, firm in others[:COMPARED]:
        same = _same(answer.text, text, kind)
        if same == "failed" or (same == "undecided" and firm):
            both = f"{text[:200]} | {answer.text[:200]}"
            return (failed if same == "failed" else undecided)("several_answers", both)
    return _undecided(trace, answer) or passed(answer.text)


def _spelt(answer: Answer) -> tuple[str, ...]:
    return (answer.text, *answer.text.split(", "))


def _same(answer: str, other: str, kind: AnswerType) -> FilterOutcome:
    """Whether two stated texts say the same; of words, one may say more than the other."""
    if kind in BY_VALUE:
        return verify(answer, other, kind).outcome
    if len(answer) + len(other) > TEXT_LIMIT:
        return "passed" if answer == other else "undecided"
    a, b = normalize_text(answer), normalize_text(other)
    if a == b or verify(answer, other, "math").outcome == "passed":
        return "passed"
    return "undecided" if f" {a} " in f" {b} " or f" {b} " in f" {a} " else "failed"


def _undecided(trace: Trace, answer: Answer) -> FilterResult | None:
    """Several values of which the answer names none: without a reference they may be all the solutions."""
    if trace.answer_type not in BY_VALUE or answer.how == "boxed":
        return None
    first, *others = alternatives(answer.text) or [""]
    if all(_same(first, other, trace.answer_type) != "failed" for other in others[:COMPARED]):
        return None
    if trace.reference is None:
        return undecided("several_answers", answer.text)
    return None if _SEVERAL.search(trace.reference) else failed("several_answers", answer.text)


def _one_whole(trace: Trace, whole: str) -> FilterResult:
    if not whole.strip():
        return failed("no_answer")
    if trace.answer_type == "json" and is_several(whole):
        return failed("several_answers", whole)
    return passed(whole)


def _whole(trace: Trace) -> str | None:
    """The answer of a kind that no phrase states, "" where there is none; None for other kinds."""
    if trace.answer_type == "free":
        return trace.response
    if trace.answer_type == "python":
        from filters.sandbox.python_tests import last_block  # here, because it loads pydantic

        return last_block(trace.response) or ""
    if trace.answer_type == "json":
        return find_json(trace.response) or ""
    return None
