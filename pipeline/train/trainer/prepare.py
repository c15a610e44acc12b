"""Turns the examples into tokens and looks at them, before any process trains:
`python -m pipeline.train.trainer.prepare JOB.json [COMMAND ...]`, which then becomes COMMAND.

The examples are cut into parts. Worker processes write a file of tokens for each, and beside it what the
preflight saw there. What is there is not made again, so a killed or repeated training goes on from it; under
another key (examples, tokenizer, template, lengths) all is made anew. Training processes load the files
(data.splits): while they wait for one another, nothing is left to do that takes long.
Exit codes: 2 refused, in one line; else those of COMMAND.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported

import datasets
import pyarrow.parquet as pq
import tokenizers
import transformers
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.subprocess_guard import PR_SET_PDEATHSIG, prctl
from pipeline.errors import UserError
from pipeline.hardware import cores
from pipeline.train import checkpoints
from pipeline.train.job import Check, Prepared, TrainJob
from pipeline.train.trainer import data, load, preflight, supervision, tokens, topk_kd
from pipeline.train.trainer.data import Piece

VERSION = 1  # raised when the same examples give other tokens, or other checks are made
ROWS = 1024  # examples a part
MOST_PARTS = 256  # each is a file that every training process holds open
SAY_EVERY = 10.0  # seconds


class Part(BaseModel):
    """What was seen in a part; written when its file of tokens is there."""

    seen: preflight.Seen
    matched: int = 0  # supervised tokens with a soft label
    labelled: int = 0  # supervised tokens that were looked up


@dataclass(frozen=True)
class Maker:
    """Makes parts; the same in every worker process."""

    job: TrainJob
    tokenizer: PreTrainedTokenizerBase
    end: int
    served: str | None
    vocabulary: int

    def file(self, number: int) -> Path:
        return self.job.cache / f"{number:05}.arrow"

    def said(self, number: int) -> Path:
        return self.job.cache / f"{number:05}.json"

    def make(self, number: int, rows: Sequence[Piece], traces: Sequence[Path]) -> None:
        """Write the tokens of these rows, and then what was seen in them. Raises UserError."""
        datasets.disable_progress_bars()
        with tempfile.TemporaryDirectory(dir=self.job.cache) as scratch:
            made = Path(scratch) / "tokens.arrow"
            data.write_tokens(rows, self.tokenizer, made)
            examples = datasets.Dataset.from_file(str(made))
            part = Part(seen=preflight.look(examples, self.tokenizer, self.end, self.served, self.job))
            if self.job.train.objective == "topk_kd":
                with_thought = self.job.reasoning == "tags"
                labelled = topk_kd.add_labels(examples, traces, self.vocabulary, Path(scratch), with_thought)
                part.matched, part.labelled = topk_kd.counts(labelled)
                made = Path(labelled.cache_files[0]["filename"])
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.rename(self.file(number))
        write_atomic(self.said(number), part.model_dump_json().encode())


def prepare(job: TrainJob) -> None:
    """Have the examples on disk as tokens, and looked at; leave whole checkpoints alone. Raises UserError."""
    checkpoints.tidy(job.checkpoints, lambda line: print(line, flush=True))
    messages = data.first_dialogue(job.examples)
    tokenizer = load.tokenizer(job)
    end = tokens.end_of_turn(tokenizer, messages)
    tokens.set_padding(tokenizer, end)
    vocabulary = load.vocabulary(job, tokenizer)
    maker = Maker(job, tokenizer, end, supervision.template(job.served_template), vocabulary)
    _clear_unless(job.cache, _key(maker))
    job.prepared.unlink(missing_ok=True)
    pieces = data.pieces(job.examples, ROWS, MOST_PARTS)
    _make_all(maker, pieces)
    parts = [Part.model_validate_json(maker.said(n).read_bytes()) for n in range(len(pieces))]
    seen = preflight.Seen()
    for part in parts:
        seen = seen.then(part.seen)
    table = preflight.table(seen, tokenizer, end, job, [*_labels(job, parts)])
    if table.failed or not job.train.packing:  # packed batches are looked at once the model is there
        preflight.conclude(table, job)
    files = tuple(maker.file(n) for n in range(len(pieces)))
    data.splits(files, job.train)  # refuses an order or a weight without its measure
    made = Prepared(files=files, table=table, messages=messages, end=end)
    write_atomic(job.prepared, made.model_dump_json().encode())


def _labels(job: TrainJob, parts: Sequence[Part]) -> Iterator[Check]:
    """The check of soft labels, where the objective wants them. Raises UserError where too few matched."""
    if job.train.objective == "topk_kd":
        matched, wanted = sum(part.matched for part in parts), sum(part.labelled for part in parts)
        topk_kd.check(matched, wanted)
        yield Check(name="soft labels", value=f"{matched / wanted:.1%} of the supervised tokens", ok=True)


def _make_all(maker: Maker, pieces: Sequence[Sequence[Piece]]) -> None:
    """Make the parts that are not there, in as many processes as there are cores."""
    owed = [n for n in range(len(pieces)) if not maker.said(n).exists()]
    began, said, done = time.monotonic(), time.monotonic(), 0
    for finished in _each_made(maker, pieces, owed):
        done += sum(piece.rows for piece in pieces[finished])
        if time.monotonic() - said >= SAY_EVERY:
            said = time.monotonic()
            print(f"{done} examples turned into tokens in {said - began:.0f} s", flush=True)
    if owed:
        print(f"preflight: {done} examples looked at in {time.monotonic() - began:.1f} s", flush=True)


def _each_made(maker: Maker, pieces: Sequence[Sequence[Piece]], owed: Sequence[int]) -> Iterator[int]:
    """Make the parts owed; gives the number of each when it is there."""
    traces = _traces(maker.job, [pieces[n] for n in owed])
    workers = min(len(cores()), len(owed))
    if workers < 2:
        for n, files in zip(owed, traces, strict=True):
            maker.make(n, pieces[n], files)
            yield n
        return
    # Spawned, not forked: libraries that were loaded here may have started threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (maker,))
    try:
        waiting = {pool.submit(_make, n, pieces[n], files): n for n, files in zip(owed, traces, strict=True)}
        for each in as_completed(waiting):
            each.result()
            yield waiting[each]
    finally:
        pool.shutdown(cancel_futures=True)


_maker: Maker  # of a worker process


def _begin(maker: Maker) -> None:
    global _maker
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # what it makes is of use to nobody else
    _maker = maker


def _make(number: int, rows: Sequence[Piece], traces: Sequence[Path]) -> None:
    _maker.make(number, rows, traces)


def _traces(job: TrainJob, parts: Sequence[Sequence[Piece]]) -> list[list[Path]]:
    """For each part the files of traces that its examples were made of, where the objective reads them."""
    if job.train.objective != "topk_kd":
        return [[] for _ in parts]
    holds = {path: set(_ids(path)) for path in job.traces}
    found = []
    for part in parts:
        wanted = {name for piece in part for name in _ids(piece.path)[piece.first :][: piece.rows]}
        found.append(
            [path for path, held in holds.items() if not held.isdisjoint(wanted)] or [*job.traces[:1]]
        )
    return found


def _ids(path: Path) -> list[str]:
    ids: list[str] = pq.read_table(path, columns=["id"])["id"].to_pylist()
    return ids


def _clear_unless(cache: Path, key: str) -> None:
    """Empty the cache, unless it was made under this key; what a killed worker left goes in any case."""
    held = cache / "key"
    if held.exists() and held.read_text() == key:
        for left in cache.glob("tmp*"):
            shutil.rmtree(left)
        return
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    write_atomic(held, key.encode())


def _key(maker: Maker) -> str:
    """What the tokens, the labels and the checks hang on, as a hash."""
    job = maker.job
    soft_labels = job.train.objective == "topk_kd"
    made_of: list[Any] = [
        VERSION,
        (ROWS, MOST_PARTS),
        (transformers.__version__, tokenizers.__version__),
        [_digest(path) for path in job.examples],
        [_stamp(path) for path in job.traces] if soft_labels else [],
        maker.vocabulary if soft_labels else None,
        _tokenizer_digests(maker.tokenizer),
        (maker.end, maker.served, job.reasoning, job.train.max_length, soft_labels),
    ]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _tokenizer_digests(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Of all files that it saves: vocabulary, merges, normalisers, special tokens, chat template."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: _digest(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[str, int, int]:
    """Of a sealed file that may be too large to be read for this."""
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def main(job_file: str, command: list[str]) -> int:
    job = TrainJob.model_validate_json(Path(job_file).read_bytes())
    try:
        prepare(job)
    except UserError as e:
        job.refusal.write_text(f"{e}\n")
        print(f"error: {e}", file=sys.stderr, flush=True)
        return 2
    if command:
        sys.stdout.flush()
        os.execv(command[0], command)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m pipeline.train.trainer.prepare JOB.json [COMMAND ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
