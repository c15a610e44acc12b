"""What each example teaches, token by token: the checks of the preflight that look at every row.

A check is a function of a row that says what is wrong with it, or nothing. ROW_CHECKS names them, the
plainest fault first. Text is compared without spaces: templates trim them, some tokenizers move them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from filters.text.turn_marks import TURN_MARKS
from pipeline.errors import UserError
from pipeline.train.trainer.tokens import IGNORED, common_prefix, last_visible, render

BATCH = 256  # rows read at once
TAIL = 16  # tokens before the answer that may hold the template's own <think>
SHOWN = 2000  # characters of one part of a decoded example


@dataclass(frozen=True)
class Row:
    """One example as it will be trained on. Positions count tokens from 0."""

    id: str
    content: str  # of the assistant's message
    ids: Any  # numpy, as are labels
    labels: Any  # the id where the token is supervised, else IGNORED
    answer: int  # the answer's first position: where the template's opening of an answer ends
    asked: list[int] | str  # the prompt as the server will render it, or why it cannot
    last: int  # the last position that is not white space
    end: int  # the token that ends an answer
    marks: tuple[str, ...]  # special tokens that are supervised before the last position, and are in the text
    learned: str  # decoded: what is supervised
    before: str  # decoded: the few tokens before that


def rows(
    examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, end: int, served: str | None
) -> Iterator[Row]:
    """The examples one by one, each decoded once. `served`: the server's template, None: the tokenizer's."""
    columns = ["id", "prompt", "completion", "input_ids", "labels"]
    special, ended = _special(tokenizer), tokenizer.convert_ids_to_tokens(end)
    for batch in examples.with_format("arrow", columns=columns).iter(batch_size=BATCH):
        for n in range(len(batch)):
            id_, prompt, completion = (batch[name][n].as_py() for name in columns[:3])
            ids, labels = (batch[name][n].values.to_numpy(zero_copy_only=False) for name in columns[3:])
            opening = render(tokenizer, prompt, opened=True)
            supervised = labels != IGNORED
            first = int(supervised.argmax()) if supervised.any() else len(ids)
            last = last_visible(tokenizer, ids.tolist())
            learned = ids[:last][supervised[:last]]
            marks = [
                str(tokenizer.convert_ids_to_tokens(int(id))) for id in learned[np.isin(learned, special)]
            ]
            yield Row(
                id=id_,
                content=completion[-1]["content"],
                ids=ids,
                labels=labels,
                answer=common_prefix(opening, ids),
                asked=opening if served is None else _render_served(tokenizer, prompt, served),
                last=last,
                end=end,
                # Of a template's own marks (channels, tags) only an early end is wrong.
                marks=tuple(m for m in marks if m == ended or m in completion[-1]["content"]),
                learned=str(tokenizer.decode(ids[supervised])),
                before=str(tokenizer.decode(ids[max(0, first - TAIL) : first])),
            )


def _special(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of marks: of turns, ends, padding. Tags of a thought are to be learned, special or not."""
    known = tokenizer.get_vocab()
    added = (id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
    named = (
        known[mark] for mark in TURN_MARKS if mark in known
    )  # some tokenizers call theirs no special ones
    tags = {known.get(tag) for tag in ("<think>", "</think>")}
    return sorted({*added, *named, *tokenizer.all_special_ids} - tags)


def template(served: str | None) -> str | None:
    """The text of a chat template given as vLLM takes it: a path, or the text itself. Raises UserError."""
    if served is None:
        return None
    try:
        return Path(served).read_text("utf-8")
    except (OSError, ValueError) as e:
        if any(c in served for c in "{}\n"):
            return served
        raise UserError(f"student.vllm.chat_template {served}: cannot be read: {e}") from None


def _render_served(tokenizer: PreTrainedTokenizerBase, prompt: Any, template: str) -> list[int] | str:
    try:
        return render(tokenizer, prompt, opened=True, template=template)
    except TemplateError as e:
        return f"the template that the student is served with refuses the prompt: {e}"


def _nothing(row: Row) -> str | None:
    if (row.labels == IGNORED).all():
        return "the chat template leaves nothing of the answer to learn from"
    return None


def _prompt_trained(row: Row) -> str | None:
    trained = int((row.labels[: row.answer] != IGNORED).sum())
    return f"{trained} tokens of the prompt have loss: the student would learn to ask" if trained else None


def _no_end(row: Row) -> str | None:
    if row.ids[row.last] != row.end or row.labels[row.last] != row.end:
        return "what is learned does not end with the end of a turn, so the student would not stop"
    return None


def _mark(row: Row) -> str | None:
    if not row.marks:
        return None
    return (
        f"{row.marks[0]!r} stands within what is learned, and is a mark of the student's own turns: it would "
        "learn to end a turn there, or to write the next one; keep such traces out by a filter"
    )


def _no_thought(row: Row) -> str | None:
    thought, closed, _ = row.content.partition("</think>")
    if not closed or "</think>" not in row.learned or not _holds(row.learned, thought.replace("<think>", "")):
        return "the student's chat template drops the thought from what is learned"
    if "<think>" not in row.learned and not row.before.rstrip().endswith("<think>"):
        return "the student's chat template drops <think>, so thought and answer could not be told apart"
    return None


def _answer_changed(row: Row) -> str | None:
    answer = row.content.rpartition("</think>")[2]
    return None if _holds(row.learned, answer) else "the student's chat template changes the answer"


def _holes(row: Row) -> str | None:
    """All of the answer is to have loss, and each label is its own token."""
    part = slice(row.answer, row.last + 1)
    if (row.labels[part] == row.ids[part]).all():
        return None
    return "a part of the answer has no loss, or another token's"


def _asked_otherwise(row: Row) -> str | None:
    if isinstance(row.asked, str):
        return row.asked
    if row.asked == row.ids[: row.answer].tolist():
        return None
    return (
        "wrong template at evaluation: the server's prompt is not, token for token, what stood before the "
        "answer in training; take a chat template that renders a prompt alike with and without its "
        "answer, and give student.vllm no other chat_template"
    )


def _holds(text: str, part: str) -> bool:
    return "".join(part.split()) in "".join(text.split())


ROW_CHECKS: dict[str, Callable[[Row], str | None]] = {
    "something is supervised": _nothing,
    "prompt is not trained": _prompt_trained,
    "end token has loss": _no_end,
    "no mark before the end": _mark,
    "thought after the template": _no_thought,
    "answer unchanged": _answer_changed,
    "whole answer has loss": _holes,
    "asked as trained": _asked_otherwise,
}


def checks(reasoning: str) -> dict[str, Callable[[Row], str | None]]:
    """The checks of rows as select.reasoning has them: with "none" there is no thought to look for."""
    left_out = {_no_thought} if reasoning == "none" else set()
    return {name: check for name, check in ROW_CHECKS.items() if check not in left_out}


def faults(row: Row, checks: Mapping[str, Callable[[Row], str | None]]) -> dict[str, str]:
    """By check: what is wrong. A row that teaches nothing has this one fault."""
    if fault := _nothing(row):
        return {"something is supervised": fault}
    return {name: fault for name, check in checks.items() if (fault := check(row))}


def marked(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The row decoded, what is supervised between >>> and <<<; the middle of a long part is left out."""
    parts = []
    for supervised, positions in groupby(range(len(row.ids)), key=lambda n: row.labels[n] != IGNORED):
        part = str(tokenizer.decode(row.ids[list(positions)]))
        if len(part) > SHOWN:
            part = f"{part[: SHOWN // 2]} [... {len(part) - SHOWN} characters ...] {part[-SHOWN // 2 :]}"
        parts.append(f">>>{part}<<<" if supervised else part)
    return "".join(parts)
