"""Filters of a trace's form: whether it is complete, has one reasoning part and states one answer.

None of them needs a reference, except to know which form the answer has. `filters.rules.correct` grades it.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from filters.extract.answer import Answer, extract
from filters.extract.candidates import alternatives, is_answer, stated_answers
from filters.grade.grader import COMPARED_BY_VALUE, TEXT_LIMIT, grade_answer
from filters.grade.json_answer import find_json, is_several
from filters.policy import DEFAULT
from filters.result import FilterResult, failed, passed, undecided
from filters.rules.correct import answer_to_grade
from filters.sandbox.python_tests import last_block
from filters.text.normalize import normalize_words
from filters.text.turn_marks import TURN_MARK
from pipeline.rows import AnswerType, FilterOutcome, Trace

MAX_COMPARED = 8  # stated answers compared with the final one, since a comparison may take long

# Reasoning tags of models: <think> and its variants, Magistral's [THINK], Kimi's ◁think▷, gpt-oss's channel.
_REASONING_TAG = re.compile(
    r"</?(?:think(?:ing)?|thoughts?|reasoning)>|\[/?THINK\]|◁/?think▷|<\|channel\|>\s*analysis"
    r"|<\|/?(?:begin_of_|end_of_|start_)?(?:think(?:ing)?|thought|reasoning)\|>",
    re.IGNORECASE,
)
_UNPHRASED = frozenset(
    ("instructions", "free", "python", "json")
)  # such answers may start a line with "User:"
_INLINE_CODE = re.compile(r"`[^`\n]+`")
# Code may mention turns. Text that runs past its turn teaches a student to talk to itself.
_CODE = re.compile(r"```[^`]*+(?:`{1,2}(?!`)[^`]*+)*+```|`[^`\n]{1,200}`")
_STRIKE_THROUGH = re.compile(r"<s>|</s>")  # HTML, if the text contains <s>
# A role at the start of a line: "Human: ...", "**User:** ...", "### Instruction: ...".
_LABEL = re.compile(
    r"^[ \t]*(?:\*\*|#{2,4}[ \t]*|\[|<)?(?P<role>Human|User|Assistant|AI|Instruction|Response)"
    r"[\]>]?(?:\*\*)?[ \t]*:",
    re.MULTILINE,
)
_USER = frozenset(("Human", "User", "Instruction"))
_LIST = re.compile(r"\b(?:or|and)\b|[,;±]|\\pm|\\cup", re.IGNORECASE)  # in a reference with several values


def finished(trace: Trace) -> FilterResult:
    """The model ended its turn by itself: not truncated at max_tokens, no failed request, no chat-template
    token in the text, no user turn that the model made up.
    """
    if trace.finish_reason == "length":
        return failed("truncated")
    if trace.finish_reason != "stop":
        return failed(trace.finish_reason or "no_finish_reason", trace.error)
    reasoning, response = trace.reasoning or "", trace.response
    if mark := _turn_mark(reasoning) or _turn_mark(response):
        return failed("turn_mark", mark)
    turn = _next_turn(reasoning, trace.question, pair=True) or _next_turn(
        response, trace.question, pair=trace.answer_type in _UNPHRASED
    )
    return failed("next_turn", turn) if turn else passed()


def single_reasoning(trace: Trace, *, required: bool = True) -> FilterResult:
    """Exactly one closed, non-empty reasoning part, and a response after it. If not `required`, there may be
    no reasoning at all.

    The client stores closed reasoning in `reasoning` and the text after it in `response`. Reasoning that was
    never closed leaves `response` empty; text whose tags are out of order stays whole in `response`. So any
    tag left in either part, of whatever model, means a second reasoning part or unpaired tags. A tag in
    backticks is only mentioned.
    """
    for text in (trace.reasoning or "", trace.response):
        if _REASONING_TAG.search(text) and (stray := _REASONING_TAG.search(_INLINE_CODE.sub(" ", text))):
            return failed("stray_tags", stray[0])
    if trace.reasoning is None and (required or not trace.response.strip()):
        return failed("no_reasoning" if trace.response.strip() else "no_response")
    if required and not (trace.reasoning or "").strip():
        return failed("empty_reasoning")
    if not trace.response:
        return failed("unclosed")
    return passed() if trace.response.strip() else failed("no_response")


def final_answer(trace: Trace) -> FilterResult:
    """The response states one final answer: boxed, in <answer> tags, after "the answer is", or on its own.

    A number that merely comes last in a sentence is not a stated answer, although `correct` may grade it; nor
    is "unknown" or an empty box. A free-text answer, or one that follows instructions, is the whole
    response, a program its last code block, JSON its only value. All stated answers must have the same value,
    unless they are parts of one answer, as in "x = 1 and y = 2". "7 or 8" states no single answer, unless the
    reference is a list.
    """
    kind = trace.answer_type
    if kind in _UNPHRASED:
        return _unphrased_answer(trace)
    answer = extract(trace.response)
    if answer is None or answer.how == "last":
        answer = _named_in_words(trace) or answer
    if answer is None or answer.how == "last" or not is_answer(answer.text, kind, trace.reference):
        return failed("no_answer", answer.text if answer and answer.how != "last" else None)
    own = (answer.text, *answer.text.split(", "))
    others = [(text, firm) for text, firm in stated_answers(trace.response) if text not in own]
    for text, firm in others[:MAX_COMPARED]:
        same = _same(answer.text, text, kind)
        if same == "failed" or (same == "undecided" and firm):
            both = f"{text[:200]} | {answer.text[:200]}"
            return (failed if same == "failed" else undecided)("several_answers", both)
    return _unresolved_alternatives(trace, answer) or passed(answer.text)


def _named_in_words(trace: Trace) -> Answer | None:
    """The response or its end, if it names one option, or yes or no: "Option C is correct"."""
    possible = {"choice": "ABCDEFGHIJ", "yes_no": ("yes", "no")}.get(trace.answer_type, ())
    answer = (
        answer_to_grade(trace.reference, trace.response, trace.answer_type, DEFAULT) if possible else None
    )
    if answer is None:
        return None
    grades = (grade_answer(one, answer.text, trace.answer_type).outcome for one in possible)
    return answer if "passed" in grades else None


def _unphrased_answer(trace: Trace) -> FilterResult:
    """Result for answer types that no phrase announces: whole responses, programs and JSON."""
    find = {"python": last_block, "json": find_json}.get(trace.answer_type)
    answer = find(trace.response) if find else trace.response
    if not answer or not answer.strip():
        return failed("no_answer")
    several = trace.answer_type == "json" and is_several(answer)
    return failed("several_answers", answer) if several else passed(answer)


def _same(answer: str, other: str, kind: AnswerType) -> FilterOutcome:
    """Whether two stated answers agree; undecided if one text contains the other's words and more."""
    if kind in COMPARED_BY_VALUE:
        return grade_answer(answer, other, kind).outcome
    if len(answer) + len(other) > TEXT_LIMIT:
        return "passed" if answer == other else "undecided"
    a, b = normalize_words(answer), normalize_words(other)
    if a == b or grade_answer(answer, other, "math").outcome == "passed":
        return "passed"
    return "undecided" if f" {a} " in f" {b} " or f" {b} " in f" {a} " else "failed"


def _unresolved_alternatives(trace: Trace, answer: Answer) -> FilterResult | None:
    """Result for an answer with different values; undecided without a reference, as all may be meant."""
    if trace.answer_type not in COMPARED_BY_VALUE or answer.how == "boxed":
        return None
    first, *others = alternatives(answer.text) or [""]
    if all(_same(first, other, trace.answer_type) != "failed" for other in others[:MAX_COMPARED]):
        return None
    if trace.reference is None:
        return undecided("several_answers", answer.text)
    return None if _LIST.search(trace.reference) else failed("several_answers", answer.text)


def _turn_mark(text: str) -> str | None:
    """Returns the first mark of a chat template with the text around it, None if there is no mark."""
    if "<" not in text and "[" not in text and "]~b]" not in text:
        return None
    text = _CODE.sub(" ", text)
    if "<s>" in text:
        text = _STRIKE_THROUGH.sub(" ", text)
    mark = TURN_MARK.search(text)
    return None if mark is None else text[max(mark.start() - 60, 0) : mark.end() + 60]


def _next_turn(text: str, question: str, *, pair: bool) -> str | None:
    """Returns the text from an imagined user turn on, None if there is no such turn.

    A label that also occurs in the question does not count. With `pair`, a user turn counts only if an answer
    to it follows, because reasoning may quote the user.
    """
    if ":" not in text:
        return None
    without_code = _CODE.sub(lambda code: " " * len(code[0]), text)  # keeps offsets
    labels = [label for label in _LABEL.finditer(without_code) if f"{label['role']}:" not in question]
    for label, following in zip_longest(labels, labels[1:]):
        answered = following is not None and following["role"] not in _USER
        if label["role"] in _USER and (answered if pair else bool(text[: label.start()].strip())):
            return text[label.start() :]
    return None
