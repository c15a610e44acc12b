"""Before the first step: what became of the examples is looked at, token by token, and a training that would
teach something else is refused.

data.py writes the tokens as TRL does: the whole dialogue by the chat template, supervised from where it parts
from the prompt with its opening of an answer. Templates do surprising things with that (many drop the
thought), and each of them hurts silently. All checks are made, the table of them is written, then the first
that failed refuses the training. No example is ever cut: those that are too long are left out, up to a set
share. Rows are looked at in parts, by several processes (prepare.py).
The checks of each row are in `supervision`, that of packed batches is in `packing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from pydantic import BaseModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.config.training import Train
from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.train.job import Check, Preflight, TrainJob
from pipeline.train.trainer import data, supervision
from pipeline.train.trainer.tokens import IGNORED, render

NAMED = 5  # ids in a line for people


class Seen(BaseModel):
    """What some rows showed. Of several parts: a.then(b), in the order of their rows."""

    of: int = 0  # rows, those that are too long among them
    longest_of_all: int = 0  # tokens, of those
    left_out: list[str] = []  # ids of those that are too long; nothing below counts them
    to_train: int = 0
    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    faulty: dict[str, int] = {}  # rows by check
    first: dict[str, str] = {}  # by check: what is wrong with the first of them
    example: str = ""  # the first row decoded, or the first with a fault

    @property
    def share(self) -> float:
        """Of the tokens, those that are supervised."""
        return self.supervised / max(1, self.tokens)

    def then(self, more: Seen) -> Seen:
        """Both together, `more` behind."""
        return Seen(
            of=self.of + more.of,
            longest_of_all=max(self.longest_of_all, more.longest_of_all),
            left_out=self.left_out + more.left_out,
            to_train=self.to_train + more.to_train,
            rows=self.rows + more.rows,
            tokens=self.tokens + more.tokens,
            supervised=self.supervised + more.supervised,
            longest=max(self.longest, more.longest),
            faulty=dict(Counter(self.faulty) + Counter(more.faulty)),
            first=more.first | self.first,
            example=more.example if not self.rows or (more.first and not self.first) else self.example,
        )


def look(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, end: int, served: str | None, job: TrainJob
) -> Seen:
    """Look at rows (id, split, prompt, completion, input_ids, labels), those that are not too long.

    `end` is the token that ends an answer, `served` the server's template, None: the tokenizer's.
    """
    tokens, most = np.concatenate([*data.lengths(rows)]), job.train.max_length
    long = np.flatnonzero(tokens > most)
    seen = Seen(of=len(rows), longest_of_all=int(tokens.max()), left_out=rows.select(long)["id"][:])
    kept = rows.select(np.flatnonzero(tokens <= most)) if len(long) else rows
    seen.to_train = kept["split"][:].count("train")
    checks = supervision.checks(job.reasoning)
    for row in supervision.rows(kept, tokenizer, end, served):
        _add(seen, row, supervision.faults(row, checks), tokenizer)
    return seen


def table(
    seen: Seen, tokenizer: PreTrainedTokenizerBase, end: int, job: TrainJob, extra: Sequence[Check] = ()
) -> Preflight:
    """The table of what was seen in all rows; `extra` are checks made elsewhere."""
    return Preflight(
        checks=(_padding(tokenizer, end), *_row_checks(seen, job), _too_long(seen, job.train), *extra),
        examples=seen.rows,
        left_out=tuple(seen.left_out),
        supervised=seen.share,
        longest=seen.longest,
        example=seen.example,
    )


def conclude(made: Preflight, job: TrainJob) -> None:
    """Write `job.preflight`. Raises UserError, the line of the first check that failed."""
    write_atomic(job.preflight, made.model_dump_json(indent=2).encode() + b"\n")
    if made.failed:
        raise UserError(made.failed[0].why)


def check_saved(
    folder: Path, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> None:
    """Raise UserError unless the student's folder renders and ends these messages as the training did."""
    saved = AutoTokenizer.from_pretrained(folder)
    alike = {
        "the end of a turn": saved.eos_token_id == tokenizer.eos_token_id,
        "padding": saved.pad_token_id == tokenizer.pad_token_id,
        "a prompt": render(saved, messages[:-1], opened=True)
        == render(tokenizer, messages[:-1], opened=True),
        "an answer": render(saved, messages) == render(tokenizer, messages),
    }
    if wrong := [what for what, same in alike.items() if not same]:
        raise UserError(
            f"{folder}: the tokenizer saved there renders {' and '.join(wrong)} otherwise than the training "
            "did, so the student would not answer as it learned: take one that transformers saves whole"
        )


def _too_long(seen: Seen, train: Train) -> Check:
    most, left_out = train.max_length, seen.left_out
    count = f"{len(left_out)} of {seen.of}"
    told = f"{count} examples are longer than train.max_length = {most} tokens, the longest "
    told += f"{seen.longest_of_all}: "
    names = ", ".join(left_out[:NAMED]) + (", ..." if len(left_out) > NAMED else "")
    why = ""
    if len(left_out) > train.max_overlong_fraction * seen.of:
        why = (
            told
            + "raise it, keep shorter traces, or let a share be left out with train.max_overlong_fraction"
        )
    elif not seen.to_train:
        why = told + "without them nothing is left to train on"
    return Check(
        name=f"at most {most} tokens", value=f"{count} left out{names and ': ' + names}", ok=not why, why=why
    )


def _padding(tokenizer: PreTrainedTokenizerBase, end: int) -> Check:
    pad, told = tokenizer.pad_token_id, repr(tokenizer.pad_token)
    why = (
        ""
        if pad is not None and pad != end
        else (
            f"padding is {told}: it has to be there, and not the end of a turn, which is masked with it, "
            "so that the student would not stop; give the student's tokenizer another pad_token"
        )
    )
    return Check(
        name="padding is not the end", value=f"{told}, end {tokenizer.decode([end])!r}", ok=not why, why=why
    )


def _add(
    seen: Seen, row: supervision.Row, faults: Mapping[str, str], tokenizer: PreTrainedTokenizerBase
) -> None:
    if not seen.rows or (faults and not seen.first):
        seen.example = supervision.marked(row, tokenizer)
    for name, fault in faults.items():
        seen.faulty[name] = seen.faulty.get(name, 0) + 1
        seen.first.setdefault(name, f"example {row.id}: {fault}")
    seen.rows += 1
    seen.tokens += len(row.ids)
    seen.supervised += int((row.labels != IGNORED).sum())
    seen.longest = max(seen.longest, len(row.ids))


def _row_checks(seen: Seen, job: TrainJob) -> Iterator[Check]:
    """A line for each check of the rows, then what was counted."""
    for name in supervision.checks(job.reasoning):
        bad = seen.faulty.get(name, 0)
        why = f"{seen.first[name]} ({bad} of {seen.rows} examples)" if bad else ""
        yield Check(name=name, value=f"{seen.rows - bad} of {seen.rows} examples", ok=not bad, why=why)
    share = f"{seen.share:.1%} of {seen.tokens:,}"
    yield Check(name="supervised tokens", value=share, ok=True)
    yield Check(name="longest example", value=f"{seen.longest:,} tokens", ok=True)
