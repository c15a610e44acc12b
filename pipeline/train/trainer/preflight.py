"""Checks every tokenized example before step 1 and stops a training that would teach something else.

data.py tokenizes as TRL does: the whole dialogue by the chat template, with loss from where it departs from
the prompt. Templates do surprising things there (many drop the reasoning), each of which hurts silently. All
checks are made and reported; then the first that failed stops the training. No example is truncated: those
over max_length are left out, up to train.max_overlong_fraction. prepare.py spreads the rows over processes.
The checks of one example are in `example_checks`, the check of packed batches is in `packing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from pydantic import BaseModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.config.train import Train
from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.inference.thinking import switch_of
from pipeline.train.job import Preflight, PreflightCheck, TrainJob
from pipeline.train.trainer import data, example_checks
from pipeline.train.trainer.special_tokens import IGNORED, render

MAX_NAMED = 5  # ids named in one line


class Statistics(BaseModel):
    """What the checks found in some rows; a + b combines two parts in the order of their rows."""

    total: int = 0  # rows, with those that are too long
    longest_of_all: int = 0  # tokens, of those
    left_out: list[str] = []  # ids of those that are too long; nothing below counts them
    to_train: int = 0
    rows: int = 0
    tokens: int = 0
    plain: int = 0  # rows whose prompt asks not to think
    supervised: int = 0  # tokens with loss
    longest: int = 0
    faulty: dict[str, int] = {}  # rows, by check
    first: dict[str, str] = {}  # what is wrong with the first of them, by check
    example: str = ""  # the first row decoded, or the first with a fault
    labeled: int = 0  # tokens with a top-k label
    label_candidates: int = 0  # tokens for which one was looked up

    @property
    def share(self) -> float:
        """The fraction of the tokens that have loss."""
        return self.supervised / max(1, self.tokens)

    def __add__(self, after: Statistics) -> Statistics:
        take_after = not self.rows or (after.first and not self.first)
        return Statistics(
            **{name: getattr(self, name) + getattr(after, name) for name in _ADDED},
            longest_of_all=max(self.longest_of_all, after.longest_of_all),
            longest=max(self.longest, after.longest),
            faulty=dict(Counter(self.faulty) + Counter(after.faulty)),
            first=after.first | self.first,
            example=after.example if take_after else self.example,
        )


_ADDED = (
    *("total", "left_out", "to_train", "rows", "plain", "tokens", "supervised"),
    *("labeled", "label_candidates"),
)


def inspect(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, end: int, served: str | None, job: TrainJob
) -> Statistics:
    """Checks rows (id, split, prompt, completion, input_ids, labels) that are not over max_length.

    Both answers of a pair are checked. `end`: the token that ends a turn. `served`: the server's template;
    None: the tokenizer's.
    """
    tokens, limit = data.longest_answer(rows), job.train.max_length
    long = np.flatnonzero(tokens > limit)
    found = Statistics(total=len(rows), longest_of_all=int(tokens.max()), left_out=rows.select(long)["id"][:])
    kept = rows.select(np.flatnonzero(tokens <= limit)) if len(long) else rows
    found.to_train = kept["split"][:].count("train")
    checks = example_checks.checks(job.reasoning, job.thinking_switch)
    answers = [kept, data.rejected_answers(kept)] if job.objective.pairs else [kept]
    for each in answers:
        for example in example_checks.decoded_examples(each, tokenizer, end, served, job.thinking_switch):
            faults = example_checks.faults(example, checks)
            if not found.rows or (faults and not found.first):
                found.example = example_checks.marked(example, tokenizer)
            _count(found, example, faults)
    return found


def _count(found: Statistics, example: example_checks.DecodedExample, faults: Mapping[str, str]) -> None:
    for name, fault in faults.items():
        found.faulty[name] = found.faulty.get(name, 0) + 1
        found.first.setdefault(name, f"example {example.id}: {fault}")
    found.rows += 1
    found.plain += not example.thinking
    found.tokens += len(example.ids)
    found.supervised += int((example.labels != IGNORED).sum())
    found.longest = max(found.longest, len(example.ids))


def report(
    found: Statistics,
    tokenizer: PreTrainedTokenizerBase,
    end: int,
    job: TrainJob,
    extra: Sequence[PreflightCheck] = (),
) -> Preflight:
    """The report on all rows; `extra` are checks made elsewhere."""
    checks = (_padding(tokenizer, end), *_row_checks(found, job), _too_long(found, job.train), *extra)
    return Preflight(
        checks=checks,
        examples=found.rows,
        left_out=tuple(found.left_out),
        supervised=found.share,
        longest=found.longest,
        example=found.example,
        thinking_switch=job.thinking_switch or switch_of(tokenizer.get_chat_template()),
    )


def conclude(preflight: Preflight, job: TrainJob) -> None:
    """Writes `job.preflight`. Raises UserError with the line of the first check that failed."""
    write_atomic(job.preflight, preflight.model_dump_json(indent=2).encode() + b"\n")
    if preflight.failed:
        raise UserError(preflight.failed[0].why)


def check_saved(
    folder: Path, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> None:
    """Raises UserError unless the folder's tokenizer renders these messages as the training did."""
    saved = AutoTokenizer.from_pretrained(folder)
    prompt = messages[:-1]
    equal = {
        "the end of a turn": saved.eos_token_id == tokenizer.eos_token_id,
        "padding": saved.pad_token_id == tokenizer.pad_token_id,
        "a prompt": render(saved, prompt, opened=True) == render(tokenizer, prompt, opened=True),
        "an answer": render(saved, messages) == render(tokenizer, messages),
    }
    if different := [name for name, same in equal.items() if not same]:
        raise UserError(
            f"{folder}: the saved tokenizer renders {' and '.join(different)} differently from the training, "
            "so the student would answer differently: use a tokenizer that transformers saves completely"
        )


def _too_long(found: Statistics, train: Train) -> PreflightCheck:
    limit, left_out = train.max_length, found.left_out
    count = f"{len(left_out)} of {found.total}"
    why = (
        f"{count} examples are longer than train.max_length = {limit} tokens, the longest "
        f"{found.longest_of_all}: "
    )
    if len(left_out) > train.max_overlong_fraction * found.total:
        why += (
            "raise it, keep shorter traces, or allow a fraction to be left out: train.max_overlong_fraction"
        )
    elif not found.to_train:
        why += "without them no example is left to train on"
    else:
        why = ""
    names = ", ".join(left_out[:MAX_NAMED]) + (", ..." if len(left_out) > MAX_NAMED else "")
    value = f"{count} left out{names and ': ' + names}"
    return PreflightCheck(name=f"at most {limit} tokens", value=value, ok=not why, why=why)


def _padding(tokenizer: PreTrainedTokenizerBase, end: int) -> PreflightCheck:
    pad, token = tokenizer.pad_token_id, repr(tokenizer.pad_token)
    ok = pad is not None and pad != end
    why = (
        f"the padding token is {token}: it must exist and differ from the end of a turn, which is masked "
        "with it, so that the student would not stop; give the student's tokenizer another pad_token"
    )
    value = f"{token}, end {tokenizer.decode([end])!r}"
    return PreflightCheck(name="padding is not the end of turn", value=value, ok=ok, why="" if ok else why)


def _row_checks(found: Statistics, job: TrainJob) -> Iterator[PreflightCheck]:
    """A line for each check of the rows, then the counts."""
    for name in example_checks.checks(job.reasoning, job.thinking_switch):
        faulty = found.faulty.get(name, 0)
        why = f"{found.first[name]} ({faulty} of {found.rows} examples)" if faulty else ""
        value = f"{found.rows - faulty} of {found.rows} examples"
        yield PreflightCheck(name=name, value=value, ok=not faulty, why=why)
    if switch := job.thinking_switch:
        value = f"{switch}: on in {found.rows - found.plain} examples, off in {found.plain}"
        yield PreflightCheck(name="thinking switch", value=value, ok=True)
    yield PreflightCheck(name="tokens with loss", value=f"{found.share:.1%} of {found.tokens:,}", ok=True)
    yield PreflightCheck(name="longest example", value=f"{found.longest:,} tokens", ok=True)
