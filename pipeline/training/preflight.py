"""Before the first step: what became of the examples is looked at, token by token, and a training that would
teach something else is refused.

data.py writes the tokens as TRL does: the whole dialogue by the chat template, supervised from where it parts
from the prompt with its opening of an answer. Templates do surprising things with that (many drop the
thought), and each of them hurts silently. All checks are made, the table of them is written, then the first
that failed refuses the training. No example is ever cut: those that are too long are left out, up to a set
share.
The checks of each row are in `supervision`, that of packed batches is in `packing`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import UserError
from pipeline.shard import write_atomic
from pipeline.training import packing, supervision
from pipeline.training.job import Check, Preflight, TrainJob
from pipeline.training.tokens import IGNORED, render

NAMED = 5  # ids in a line for people


def run(
    splits: Mapping[str, datasets.Dataset],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    end: int,
    job: TrainJob,
    extra: Sequence[Check] = (),
) -> dict[str, datasets.Dataset]:
    """Look at all rows (id, prompt, completion, input_ids, labels); give back those that are not too long.

    To be called in every process: each comes to the same result, the main one writes `job.preflight`. `end`
    is the token that ends an answer; `extra` are checks made elsewhere. Raises UserError, the line of the
    first check that failed.
    """
    began = time.monotonic()
    kept, left_out, too_long = _without_long(splits, job.train.max_length, job.train.most_too_long)
    seen, served = _Seen(job.reasoning), supervision.template(job.served_template)
    for rows in kept.values():
        seen.add(rows, tokenizer, end, served)
    packed = [packing.check(kept["train"], _lengths(kept["train"]), model, job)] if job.train.packing else []
    table = Preflight(
        checks=(_padding(tokenizer, end), *seen.checks(), too_long, *packed, *extra),
        examples=seen.rows,
        left_out=left_out,
        supervised=seen.share,
        longest=seen.longest,
        example=seen.example,
    )
    if PartialState().is_main_process:
        print(f"preflight: {seen.rows} examples looked at in {time.monotonic() - began:.1f} s", flush=True)
        write_atomic(job.preflight, table.model_dump_json(indent=2).encode() + b"\n")
    if table.failed:
        raise UserError(table.failed[0].why)
    return kept


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


def _without_long(
    splits: Mapping[str, datasets.Dataset], most: int, share: float
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...], Check]:
    """The splits without what is longer than `most` tokens, the ids of that, and whether it is few enough."""
    kept: dict[str, datasets.Dataset] = {}
    left_out: list[str] = []
    lengths: list[int] = []
    for name, rows in splits.items():
        tokens = _lengths(rows)
        lengths += tokens.tolist()
        long = np.flatnonzero(tokens > most)
        left_out += rows.select(long)["id"] if len(long) else []
        kept[name] = rows.select(np.flatnonzero(tokens <= most)) if len(long) else rows
    check = _too_long(kept, left_out, lengths, most, share)
    # Without anything to validate with, nothing is validated; without anything to train on, refused.
    return {name: rows for name, rows in kept.items() if name == "train" or len(rows)}, tuple(left_out), check


def _too_long(
    kept: Mapping[str, datasets.Dataset],
    left_out: Sequence[str],
    lengths: Sequence[int],
    most: int,
    share: float,
) -> Check:
    count = f"{len(left_out)} of {len(lengths)}"
    told = f"{count} examples are longer than train.max_length = {most} tokens, the longest {max(lengths)}: "
    names = ", ".join(left_out[:NAMED]) + (", ..." if len(left_out) > NAMED else "")
    why = ""
    if len(left_out) > share * len(lengths):
        why = told + "raise it, keep shorter traces, or let a share be left out with train.most_too_long"
    elif not len(kept["train"]):
        why = told + "without them nothing is left to train on"
    return Check(
        name=f"at most {most} tokens", value=f"{count} left out{names and ': ' + names}", ok=not why, why=why
    )


def _lengths(rows: datasets.Dataset) -> Any:
    """Tokens of each row, as a numpy array."""
    columns = rows.with_format("arrow", columns=["input_ids"]).iter(batch_size=supervision.BATCH)
    parts = [np.diff(chunk.offsets.to_numpy()) for batch in columns for chunk in batch["input_ids"].chunks]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


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


class _Seen:
    """What the rows showed so far."""

    def __init__(self, reasoning: str) -> None:
        self.row_checks = supervision.checks(reasoning)
        self.rows = self.tokens = self.supervised = self.longest = 0
        self.faulty: Counter[str] = Counter()  # rows by check
        self.first: dict[str, str] = {}  # by check: what is wrong with the first of them
        self.example = ""  # the first row, or the first with a fault

    def add(
        self, examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, end: int, served: str | None
    ) -> None:
        for row in supervision.rows(examples, tokenizer, end, served):
            faults = supervision.faults(row, self.row_checks)
            if not self.rows or (faults and not self.first):
                self.example = supervision.marked(row, tokenizer)
            for name, fault in faults.items():
                self.faulty[name] += 1
                self.first.setdefault(name, f"example {row.id}: {fault}")
            self.rows += 1
            self.tokens += len(row.ids)
            self.supervised += int((row.labels != IGNORED).sum())
            self.longest = max(self.longest, len(row.ids))

    def checks(self) -> Iterator[Check]:
        """A line for each check of the rows, then what was counted."""
        for name in self.row_checks:
            bad = self.faulty[name]
            why = f"{self.first[name]} ({bad} of {self.rows} examples)" if bad else ""
            yield Check(name=name, value=f"{self.rows - bad} of {self.rows} examples", ok=not bad, why=why)
        share = f"{self.share:.1%} of {self.tokens:,}"
        yield Check(name="supervised tokens", value=share, ok=True)
        yield Check(name="longest example", value=f"{self.longest:,} tokens", ok=True)

    @property
    def share(self) -> float:
        """Of the tokens, those that are supervised."""
        return self.supervised / max(1, self.tokens)
