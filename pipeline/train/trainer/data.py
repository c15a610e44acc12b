"""Tokenizes the examples, and later loads, splits, orders and weights them.

They are tokenized here rather than by TRL so that the preflight sees every row before a trainer is built.
prepare.py decides who tokenizes what and when the result is reused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.config.mix import ThinkingSwitch
from pipeline.config.train import Train
from pipeline.engine.query import query
from pipeline.errors import UserError
from pipeline.inference.thinking import asked, thinks
from pipeline.train.trainer.loss_mask import tokens_of

Splits = dict[str, datasets.Dataset]
BATCH = 128  # examples tokenized at once
_KEPT = ("id", "split", "pass_rate", "confidence", "tokens")
_READ = ["messages", "kind", "rejected"]
REJECTED = "rejected_"  # begins the names of columns that belong to the rejected trace
_TOKENS = pa.list_(pa.int32())


def partition(files: Sequence[Path], max_parts: int, pairs: bool = False) -> list[Sequence[Path]]:
    """The files that hold rows, in order, in parts of one file, or of more if there are too many.

    `pairs`: only rows with a rejected trace count.
    """
    filled = [path for path in files if (_pairs_in(path) if pairs else pq.read_metadata(path).num_rows)]
    size = max(1, math.ceil(len(filled) / max_parts))
    return [filled[first : first + size] for first in range(0, len(filled), size)]


def _pairs_in(path: Path) -> int:
    column = pq.read_table(path, columns=["rejected"])["rejected"]
    return len(column) - column.null_count


def write_tokens(
    part: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    file: Path,
    switch: ThinkingSwitch | None = None,
    pairs: bool = False,
) -> None:
    """Writes an Arrow stream with _KEPT, prompt, completion, thinking, input_ids and labels of the rows.

    `pairs`: only the rows with a rejected trace, with its completion and tokens under names with REJECTED.
    """
    writer: Any = None
    with file.open("wb") as out:
        for path in part:
            with pq.ParquetFile(path) as rows:
                for batch in rows.iter_batches(batch_size=BATCH, columns=[*_KEPT, *_READ]):
                    batch = batch.filter(batch["rejected"].is_valid()) if pairs else batch
                    tokenized = _tokenize(batch, tokenizer, switch, pairs)
                    writer = writer or pa.ipc.new_stream(out, tokenized.schema)
                    writer.write_batch(tokenized)
        writer.close()


def _tokenize(
    batch: pa.RecordBatch, tokenizer: PreTrainedTokenizerBase, switch: ThinkingSwitch | None, pairs: bool
) -> pa.RecordBatch:
    examples = [_example(row, switch) for row in batch.select(_READ).to_pylist()]
    columns = {name: batch[name] for name in _KEPT}
    columns["thinking"] = pa.array([example["thinking"] for example in examples], pa.bool_())
    columns["prompt"] = pa.array([example["prompt"] for example in examples], batch["messages"].type)
    answers = {"": examples}
    if pairs:
        contents = batch["rejected"].to_pylist()
        answers[REJECTED] = [
            example | {"completion": [{"role": "assistant", "content": content}]}
            for example, content in zip(examples, contents, strict=True)
        ]
    for prefix, given in answers.items():
        tokens = _tokens_of(batch["id"].to_pylist(), given, tokenizer, switch)
        completions = [example["completion"] for example in given]
        columns[f"{prefix}completion"] = pa.array(completions, batch["messages"].type)
        for name in ("input_ids", "labels"):
            columns[f"{prefix}{name}"] = pa.array([each[name] for each in tokens], _TOKENS)
    return pa.record_batch(columns)


def _example(row: Mapping[str, Any], switch: ThinkingSwitch | None) -> dict[str, Any]:
    """A row of select as prompt and completion, and whether the prompt asks to think."""
    prompt, completion = row["messages"][:-1], row["messages"][-1:]
    thinking = switch is None or thinks(row["kind"], completion[0]["content"])
    return {"prompt": asked(prompt, switch, thinking), "completion": completion, "thinking": thinking}


def _tokens_of(
    names: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    switch: ThinkingSwitch | None,
) -> list[dict[str, Any]]:
    """The tokens of examples. Raises UserError that names the one that the template refuses."""
    try:
        return tokens_of(examples, tokenizer, switch)
    except TemplateError:  # find the example to name it
        pass
    tokens = []
    for name, example in zip(names, examples, strict=True):
        try:
            tokens += tokens_of([example], tokenizer, switch)
        except TemplateError as e:
            raise UserError(
                f"example {name}: the student's chat template refuses its messages: {e}"
            ) from None
    return tokens


def rejected_answers(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows as examples whose answers are the rejected traces."""
    names = [f"{REJECTED}{name}" for name in ("completion", "input_ids", "labels")]
    view = rows.select_columns(["id", "split", "thinking", "prompt", *names])
    return view.rename_columns({name: name.removeprefix(REJECTED) for name in names})


def first_dialogue(files: Sequence[Path]) -> list[dict[str, str]]:
    """The messages of the first training example. Raises UserError where there is none."""
    found = query(files, ["split", "messages"], "select messages from rows where split = 'train' limit 1")
    if not found:
        raise UserError("there is no training example")
    messages: list[dict[str, str]] = found[0][0]
    return messages


def splits(files: Sequence[Path], train: Train) -> Splits:
    """Rows by split, without those over max_length, in order, with a weight column if the recipe sets one.

    `files`, written by write_tokens(), are memory-mapped. An empty split is absent. Raises UserError where
    examples lack the column that the order or the weights need.
    """
    datasets.disable_progress_bars()
    rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
    fits = longest_answer(rows) <= train.max_length
    split = np.array(rows["split"][:])
    chosen = {name: np.flatnonzero(fits & (split == name)) for name in ("train", "validation")}
    if train.weight_by:
        rows = rows.add_column("weight", _weights(rows, chosen["train"], train))
    chosen["train"] = _ordered(rows, chosen["train"], train)
    return {name: rows.select(numbers) for name, numbers in chosen.items() if len(numbers)}


def longest_answer(rows: datasets.Dataset) -> np.ndarray:
    """The number of tokens of each row, or of the longer one of a pair."""
    columns = [name for name in ("input_ids", f"{REJECTED}input_ids") if name in rows.column_names]
    return np.maximum.reduce([np.concatenate([*_lengths(rows, name)]) for name in columns])


def _lengths(rows: datasets.Dataset, column: str) -> Iterator[np.ndarray]:
    for batch in rows.with_format("arrow", columns=[column]).iter(batch_size=1024):
        for chunk in batch[column].chunks:
            yield np.diff(chunk.offsets.to_numpy())


def _ordered(rows: datasets.Dataset, numbers: np.ndarray, train: Train) -> np.ndarray:
    """Sorts row numbers by difficulty or length; every epoch then uses that order."""
    if train.order == "shuffled":
        return numbers
    column = "pass_rate" if train.order == "easy_first" else "tokens"
    values = _values(rows, numbers, column, f'train.order = "{train.order}"')
    return numbers[np.argsort(-values if column == "pass_rate" else values, kind="stable")]


def _weights(rows: datasets.Dataset, numbers: np.ndarray, train: Train) -> np.ndarray:
    """Weights with mean 1 for the training examples: the geometric mean of their tokens' probabilities."""
    confidence = np.exp(_values(rows, numbers, "confidence", f'train.weight_by = "{train.weight_by}"'))
    weights = np.zeros(len(rows))  # other rows' weights are not read
    weights[numbers] = confidence / confidence.mean()
    return weights


def _values(rows: datasets.Dataset, numbers: np.ndarray, column: str, setting: str) -> np.ndarray:
    values = np.array(rows[column][:], dtype=float)[numbers]  # None becomes nan
    missing = int(np.isnan(values).sum())
    if missing:
        hint = "; set generate.logprobs = true" if column == "confidence" else ""
        raise UserError(f"{setting}: {missing} of {len(values)} examples have no {column}{hint}")
    return values
