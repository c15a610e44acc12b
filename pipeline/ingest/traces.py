"""Reads traces that exist already: each row becomes a problem with one or more samples, or a BadRow.

A row has a question and a response, or a conversation. Its response may be a list; each item is a sample, and
the other columns of a sample may be lists of the same length.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from filters.text.turn_marks import strip_end_marks
from pipeline import generations
from pipeline.config.ingest import TracesSource
from pipeline.inference.dialects import (
    FORMATS,
    MARKS,
    REASONING_FIELDS,
    REASONING_TYPES,
    Marks,
    canonical_finish_reason,
    split_reasoning,
    text_of,
)
from pipeline.ingest import sources
from pipeline.ingest.composed import UnusableRow, checked_text, lookup
from pipeline.ingest.files import BadRow, Number, Record
from pipeline.ingest.sources import kind_of
from pipeline.rows import Problem

MAX_TOKENS = 2**40  # a larger count is no count
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
_ROLES |= {"bot": "assistant", "chatgpt": "assistant"}
# Columns that hold the parts of a conversation while its row is read
_QUESTION, _RESPONSE, _REASONING = "last question", "answer to it", "reasoning of the answer"
_HARMONY_TURN = "<|start|>assistant"  # before the first channel of gpt-oss


@dataclass(frozen=True)
class GivenSample:
    """What a row says of one trace."""

    teacher: str
    reasoning: str | None
    response: str
    finish_reason: str
    completion_tokens: int | None
    key: str  # equal for rows that are one trace, if they have one question
    teacher_generation: str | None = None
    columns: str | None = None  # JSON: the other columns of its row


@dataclass(frozen=True)
class GivenRow:
    problem: Problem
    samples: tuple[GivenSample | BadRow, ...]  # not empty


@dataclass(frozen=True)
class Reader:
    """How the samples of a source are read."""

    source: TracesSource
    families: tuple[Marks, ...] | None  # None: texts are taken as they are

    @classmethod
    def of(cls, source: TracesSource) -> Reader:
        if source.messages:
            question = _QUESTION if source.question == source.messages else source.question
            found = {"question": question, "response": _RESPONSE, "reasoning": source.reasoning or _REASONING}
            source = source.model_copy(update=found)
        if given := source.reasoning_marks:
            marks = Marks(given.begin, given.end, (given.answer_begin, given.answer_end))
            return cls(source, (marks,))
        if source.reasoning_format == "none":
            return cls(source, None)
        return cls(source, FORMATS.get(source.reasoning_format, MARKS))

    def samples(self, record: Record, columns: str | None) -> Iterator[GivenSample | BadRow]:
        """Yields the samples of a row, each with these columns. Raises UnusableRow without a response."""
        _, responses = lookup(record.values, self.source.response)
        unrolled = isinstance(responses, list) and not _is_parts(responses)
        if responses is None or responses == []:
            raise UnusableRow("no response")
        for number, response in enumerate(responses if unrolled else [responses]):
            try:
                found = self._sample(record.values, response, number if unrolled else None)
                yield replace(found, columns=columns)
            except UnusableRow as e:
                origin = f"{record.origin} sample {number + 1}" if unrolled else record.origin
                yield BadRow(origin, str(e))

    def _sample(self, row: dict[str, Any], response: Any, number: int | None) -> GivenSample:
        def column(name: str | None) -> Any:
            return _of_sample(row, name, number) if name else None

        source = self.source
        response, thought = _texts(response)
        text = _text("the response", response)
        reasoning = _text("the reasoning", column(source.reasoning) if source.reasoning else thought)
        finish_reason = _finish_reason(column(source.finish_reason))
        teacher = source.teacher or _text("the teacher", column(source.teacher_column)).strip()
        if not teacher:
            raise UnusableRow("no teacher")
        found, answer, unclosed = self._split(text, reasoning, truncated=finish_reason == "length")
        id = _id(column(source.trace_id), number) if source.trace_id else ()
        generation = column(source.generation_column or generations.COLUMN)
        stated = None if source.generation is None else str(source.generation)
        if found is None and not answer:
            raise UnusableRow("no response")
        return GivenSample(
            teacher=teacher,
            reasoning=found,
            response=answer,
            finish_reason=finish_reason or ("length" if unclosed else "stop"),
            completion_tokens=_tokens(column(source.tokens)),
            key=_hash(*id, teacher, found or "", answer),
            teacher_generation=generations.read(generation) or stated,
        )

    def _split(self, text: str, reasoning: str, truncated: bool) -> tuple[str | None, str, bool]:
        """Reasoning, response, and whether the reasoning was never closed, as the client finds them."""
        if self.families is None:
            return reasoning.strip() or None, text.strip(), bool(reasoning.strip()) and not text.strip()
        if not truncated:
            text = strip_end_marks(text)
        if text.startswith(_HARMONY_TURN):
            text = text.removeprefix(_HARMONY_TURN)
        return split_reasoning(text, reasoning, truncated=truncated, families=self.families)


def read(
    source: TracesSource, held_out: float, seed: int, left_out: Counter[str] | None = None
) -> Iterator[GivenRow | BadRow]:
    """Yields the rows of a source in order; the arguments are those of `sources.read`."""
    name, reader = sources.name_of(source), Reader.of(source)
    left_out = Counter() if left_out is None else left_out
    for record in sources.records(source):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            given = _conversation(record, source, source.messages) if source.messages else record
            problem = sources.problem_of(reader.source, name, given, held_out, seed, left_out)
            row: GivenRow | BadRow = GivenRow(problem, tuple(reader.samples(given, problem.columns)))
        except UnusableRow as e:
            row = BadRow(record.origin, str(e))
        yield row


def _conversation(record: Record, source: TracesSource, messages: str) -> Record:
    """The row with the last question of its conversation and the answer to it as columns of their own."""
    _, turns = lookup(record.values, messages)
    if not isinstance(turns, list):
        raise UnusableRow(f"the conversation is {kind_of(turns)}, not a list")
    roles = [_role(turn) for turn in turns]
    if "user" not in roles:
        raise UnusableRow("the conversation has no user turn")
    last = len(roles) - 1 - roles[::-1].index("user")
    if "assistant" not in roles[last:]:
        raise UnusableRow("the conversation has no assistant turn after the user's last")
    answer = turns[last + roles[last:].index("assistant")]
    if answer.get("tool_calls") or answer.get("function_call"):
        raise UnusableRow("the answer calls a tool")
    response, thought = _texts(_content(answer))
    found = {_QUESTION: _asked(_content(turns[last])), _RESPONSE: response}
    if source.reasoning is None:
        found[_REASONING] = next((answer[name] for name in REASONING_FIELDS if answer.get(name)), thought)
    return Record(record.origin, record.values | found)


def _role(turn: Any) -> str:
    said = (turn.get("role") or turn.get("from")) if isinstance(turn, dict) else None
    return _ROLES.get(said.lower(), said) if isinstance(said, str) else ""


def _content(turn: dict[str, Any]) -> Any:
    return turn["content"] if turn.get("content") is not None else turn.get("value")


def _asked(content: Any) -> Any:
    """The content of the user's turn; as a turn if it is a list of parts, which `sources` joins."""
    return [{"role": "user", "content": content}] if isinstance(content, list) else content


def _texts(content: Any) -> tuple[Any, str | None]:
    """The text and the reasoning of an answer, whose content may be a list of parts."""
    if not isinstance(content, list):
        return content, None
    thought = [part for part in content if isinstance(part, dict) and part.get("type") in REASONING_TYPES]
    response, reasoning = text_of([part for part in content if part not in thought]), text_of(thought)
    if response is None or reasoning is None:
        raise UnusableRow("the response has a part that is not text")
    return response, reasoning


def _is_parts(responses: list[Any]) -> bool:
    """Whether a list holds the parts of one answer, each with its type, and not one answer an item."""
    return all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in responses)


def _of_sample(row: dict[str, Any], column: str, number: int | None) -> Any:
    """The value of a column; of a list for unrolled samples, the item of this one."""
    _, value = lookup(row, column)
    if number is None or not isinstance(value, list):
        return value
    if number >= len(value):
        raise UnusableRow(f"{column} has {len(value)} items, fewer than there are responses")
    return value[number]


def _text(what: str, value: Any) -> str:
    """Returns a text, also of parts; "" for none."""
    text = "" if value is None else text_of(value)
    if text is None or isinstance(value, Number):
        raise UnusableRow(f"{what} is {kind_of(value)}, not a text")
    return checked_text(what, text)


def _id(value: Any, number: int | None) -> tuple[str, str]:
    """The parts of a sample's identifier. Raises UnusableRow if its row has none.

    It is one among others of its source: two runs that retort published may use it for different traces.
    """
    if value is None or isinstance(value, dict | list):
        raise UnusableRow("no id of the trace")
    return str(value), "" if number is None else str(number)


def _hash(*parts: str) -> str:
    # No text of a trace has a NUL character
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def _finish_reason(value: Any) -> str | None:
    """Returns a server's word for the end of a response, as the client stores it; None if there is none.

    A column of true and false may hold them as 1 and 0, also as text.
    """
    if (word := str(value).lower().removesuffix(".0")) in ("true", "false", "1", "0"):
        return "stop" if word in ("true", "1") else "length"
    return canonical_finish_reason(value) if isinstance(value, str) else None


def _tokens(value: Any) -> int | None:
    """Returns a count of tokens, which may be written as 812.0; None for anything else."""
    try:
        count = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(count) if 1 <= count < MAX_TOKENS and not isinstance(value, bool) else None
