"""Tokenizes and checks the examples before any process trains:
`python -m pipeline.train.trainer.prepare JOB.json [COMMAND ...]`, which then replaces itself by COMMAND.

Worker processes write the examples in parts: a file of tokens and a file of what the preflight found there.
Complete parts are reused, so an interrupted or repeated training resumes; with another key (examples,
tokenizer, template, lengths) everything is made again. Training processes only load the files (data.splits),
so none of them waits long for another.
Exit codes: 2 refused, with one line; else those of COMMAND.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported

import datasets
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.worker_pool import parallel_map
from pipeline.errors import UserError
from pipeline.inference.thinking import switch_of
from pipeline.train import checkpoints
from pipeline.train.job import PreflightCheck, Prepared, TrainJob
from pipeline.train.trainer import data, example_checks, load, preflight, special_tokens, topk_kd

VERSION = 4  # raised when the same examples give other tokens or columns, or when checks change
MAX_PARTS = 256  # every training process opens all of them
SAY_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class PartWriter:
    """Writes parts; the same in every worker process."""

    job: TrainJob
    tokenizer: PreTrainedTokenizerBase
    end: int
    served: str | None
    vocabulary: int

    def tokens_file(self, number: int) -> Path:
        return self.job.cache / f"{number:05}.arrow"

    def report_file(self, number: int) -> Path:
        return self.job.cache / f"{number:05}.json"

    def write(self, number: int, part: Sequence[Path]) -> int:
        """Writes the tokens of these files, then what was found in them; returns the number of rows.

        Raises UserError.
        """
        datasets.disable_progress_bars()
        with tempfile.TemporaryDirectory(dir=self.job.cache) as scratch:
            file = Path(scratch) / "tokens.arrow"
            switch, pairs = self.job.thinking_switch, self.job.objective.pairs
            data.write_tokens(part, self.tokenizer, file, switch, pairs)
            examples = datasets.Dataset.from_file(str(file))
            found = preflight.inspect(examples, self.tokenizer, self.end, self.served, self.job)
            if self.job.objective.soft_labels:
                names = {path.name for path in part}
                files = [path for path in self.job.labels if path.name in names]
                labels = topk_kd.add_labels(examples, files, self.vocabulary, Path(scratch))
                found.labeled, found.label_candidates = topk_kd.counts(labels, self.job.train.max_length)
                file = Path(labels.cache_files[0]["filename"])
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.rename(self.tokens_file(number))
        write_atomic(self.report_file(number), found.model_dump_json().encode())
        return found.total


def prepare(job: TrainJob) -> None:
    """Writes the tokenized examples and the preflight report; removes bad checkpoints. Raises UserError."""
    checkpoints.remove_incomplete(job.checkpoints, lambda line: print(line, flush=True))
    messages = data.first_dialogue(job.examples)
    tokenizer = load.tokenizer(job)
    end = special_tokens.end_of_turn(tokenizer, messages)
    special_tokens.set_padding(tokenizer, end)
    vocabulary = load.vocabulary(job, tokenizer)
    if job.mixed and job.thinking_switch is None:
        job = job.model_copy(update={"thinking_switch": switch_of(tokenizer.get_chat_template())})
    writer = PartWriter(job, tokenizer, end, example_checks.read_template(job.served_template), vocabulary)
    _clear_unless(job.cache, _key(writer))
    job.prepared.unlink(missing_ok=True)
    parts = data.partition(job.examples, MAX_PARTS, job.objective.pairs)
    if not parts:
        raise UserError("there is no pair to train on: no example has an incorrect trace of its problem")
    _write_missing(writer, parts)
    reports = (writer.report_file(n).read_bytes() for n in range(len(parts)))
    found = reduce(add, map(preflight.Statistics.model_validate_json, reports))
    result = preflight.report(found, tokenizer, end, job, [*_label_checks(job, found)])
    if result.failed or not job.train.packing:  # launch.py checks packed batches, which needs the model
        preflight.conclude(result, job)
    files = tuple(writer.tokens_file(n) for n in range(len(parts)))
    data.splits(files, job.train)  # raises UserError for an order or weights without their column
    prepared = Prepared(files=files, preflight=result, messages=messages, end=end)
    write_atomic(job.prepared, prepared.model_dump_json().encode())


def _label_checks(job: TrainJob, found: preflight.Statistics) -> Iterator[PreflightCheck]:
    """The check of top-k labels, where the objective needs them. Raises UserError for too few labels."""
    if job.objective.soft_labels:
        topk_kd.check(found.labeled, found.label_candidates)
        value = f"{found.labeled / found.label_candidates:.1%} of the tokens with loss"
        yield PreflightCheck(name="top-k labels", value=value, ok=True)


def _write_missing(writer: PartWriter, parts: Sequence[Sequence[Path]]) -> None:
    """Writes the parts that are not complete, in one process per core, and prints the progress."""
    missing = [n for n in range(len(parts)) if not writer.report_file(n).exists()]
    work = [(n, parts[n]) for n in missing]
    began, last_said, done = time.monotonic(), time.monotonic(), 0
    for written in parallel_map(PartWriter.write, writer, work, rows=None):
        done += written
        if time.monotonic() - last_said >= SAY_EVERY:
            last_said = time.monotonic()
            print(f"{done} examples tokenized in {last_said - began:.0f} s", flush=True)
    if missing:
        print(f"preflight: {done} examples checked in {time.monotonic() - began:.1f} s", flush=True)


def _clear_unless(cache: Path, key: str) -> None:
    """Empties the cache unless it has this key; always removes what interrupted workers left."""
    key_file = cache / "key"
    if key_file.exists() and key_file.read_text() == key:
        for scratch in cache.glob("tmp*"):
            shutil.rmtree(scratch)
        return
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    write_atomic(key_file, key.encode())


def _key(writer: PartWriter) -> str:
    """A hash of everything that determines tokens, labels and checks."""
    job = writer.job
    labels = job.objective.soft_labels
    inputs: list[Any] = [
        VERSION,
        MAX_PARTS,
        (transformers.__version__, tokenizers.__version__),
        [_digest(path) for path in job.examples],
        [_stamp(path) for path in job.labels] if labels else [],
        writer.vocabulary if labels else None,
        _tokenizer_digests(writer.tokenizer),
        (writer.end, writer.served, job.reasoning, job.train.max_length, labels),
        (job.thinking_switch, job.objective.pairs),
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _tokenizer_digests(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Digests of its files: vocabulary, merges, normalizers, special tokens, chat template."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: _digest(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[str, int, int]:
    """Identifies a sealed file, which may be too large to hash here."""
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
