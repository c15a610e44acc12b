"""Tokenizes the examples that a teacher reads: `python -m pipeline.train.trainer.label_tokens JOB.json`.

Left out are examples of validation, which measures cross-entropy, and those over `max_length`.
Writes NAME.parquet for each shard of examples, with the columns id, context (the tokens of the prompt),
answer (those with loss) and texts (the answer's tokens as text, of the shortest example alone).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import prompts
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import Question, Trace
from pipeline.train.job import LabelJob
from pipeline.train.trainer import data, load
from pipeline.train.trainer.loss_mask import loss_tokens
from pipeline.train.trainer.special_tokens import render_all

TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema({"id": pa.string(), "context": TOKENS, "answer": TOKENS, "texts": pa.list_(pa.string())})


def write(job: LabelJob, examples: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the tokens of a shard. Raises UserError for examples that cannot be rendered."""
    rows: list[dict[str, Any]] = []
    if pq.read_metadata(examples).num_rows:  # no trace of a shard may have been kept
        with tempfile.TemporaryDirectory(dir=job.cache) as scratch:
            file = Path(scratch) / "tokens.arrow"
            data.write_tokens([examples], tokenizer, file)
            found = datasets.Dataset.from_file(str(file))
            fits = data.longest_answer(found) <= job.max_length
            rows = [row for row, fit in zip(found, fits, strict=True) if fit and row["split"] == "train"]
    contexts = _teacher_prompts(job, examples.stem, tokenizer) if job.prompt and rows else {}
    made: list[dict[str, Any]] = []
    for row in rows:
        answer = loss_tokens(row).tolist()
        context = contexts.get(row["id"]) or row["input_ids"][: -len(answer)]
        made.append({"id": row["id"], "context": context, "answer": answer, "texts": None})
    if made:
        shortest = min(made, key=lambda row: len(row["context"]) + len(row["answer"]))
        shortest["texts"] = [tokenizer.decode([token]) for token in shortest["answer"]]
    pq.write_table(pa.Table.from_pylist(made, schema=SCHEMA), job.cache / f"{examples.stem}.parquet")


def _teacher_prompts(job: LabelJob, shard: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The prompt that the teacher was asked with, by trace."""
    prompt = prompts.load(job.prompt or "")
    asked = dict(_questions(job, shard))
    rendered = [[message.model_dump() for message in prompt.render(each)] for each in asked.values()]
    return dict(zip(asked, render_all(tokenizer, rendered, opened=True), strict=True))


def _questions(job: LabelJob, shard: str) -> Iterator[tuple[str, Question]]:
    fields = Question.model_fields
    for record in Output(job.traces, Trace).shard(shard).records(["id", *fields]):
        yield record["id"], Question(**{name: record[name] for name in fields})


def main(job_file: str) -> int:
    job = LabelJob.model_validate_json(Path(job_file).read_bytes())
    try:
        with load.loading(f"student.model {job.model}"):
            tokenizer = AutoTokenizer.from_pretrained(job.model)
        if not tokenizer.chat_template:
            raise UserError("the student's tokenizer has no chat template: use an instruct model")
        for examples in job.examples:
            write(job, examples, tokenizer)
    except UserError as e:
        return job.refuse(e)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipeline.train.trainer.label_tokens JOB.json")
    sys.exit(main(sys.argv[1]))
