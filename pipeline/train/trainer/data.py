"""The examples as the training takes them: turned into tokens, and later loaded, split, ordered and weighed.

The tokens are made here and not by TRL, so that the preflight sees every row before a trainer is built. Who
makes them, where they are kept and when they are made anew is prepare.py's to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.train.trainer.tokens import IGNORED, common_prefix, render_all

Splits = dict[str, datasets.Dataset]
BATCH = 128  # examples turned into tokens at once
_KEPT = ("id", "split", "pass_rate", "confidence", "tokens")
_TOKENS = pa.list_(pa.int32())


class Piece(NamedTuple):
    """Rows of a Parquet file of examples."""

    path: Path
    first: int
    rows: int


def pieces(files: Sequence[Path], least: int, most_parts: int) -> list[list[Piece]]:
    """All rows of the files, in their order, in parts of `least` rows, or more where there were too many."""
    rows = [pq.read_metadata(path).num_rows for path in files]
    size = max(least, math.ceil(sum(rows) / most_parts))
    parts: list[list[Piece]] = [[]]
    for path, count in zip(files, rows, strict=True):
        first = 0
        while first < count:
            if (room := size - sum(piece.rows for piece in parts[-1])) == 0:
                parts.append([])
                continue
            parts[-1].append(Piece(path, first, min(room, count - first)))
            first += parts[-1][-1].rows
    return [part for part in parts if part]


def write_tokens(part: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Write an Arrow stream of the rows: what is kept of them, prompt, completion, input_ids, labels."""
    writer: Any = None
    with file.open("wb") as out:
        for piece in part:
            rows = pq.read_table(piece.path, columns=[*_KEPT, "messages"]).slice(piece.first, piece.rows)
            for batch in rows.to_batches(max_chunksize=BATCH):
                made = _tokenised(batch, tokenizer)
                writer = writer or pa.ipc.new_stream(out, made.schema)
                writer.write_batch(made)
        writer.close()


def _tokenised(batch: pa.RecordBatch, tokenizer: PreTrainedTokenizerBase) -> pa.RecordBatch:
    messages = batch["messages"].to_pylist()
    examples = [{"prompt": each[:-1], "completion": each[-1:]} for each in messages]
    try:
        made = tokens_of(examples, tokenizer)
    except TemplateError:  # of which of them?
        named = zip(batch["id"].to_pylist(), examples, strict=True)
        made = [_alone(name, example, tokenizer) for name, example in named]
    columns = {name: batch[name] for name in _KEPT}
    for name in ("prompt", "completion"):
        columns[name] = pa.array([example[name] for example in examples], batch["messages"].type)
    for name in ("input_ids", "labels"):
        columns[name] = pa.array([tokens[name] for tokens in made], _TOKENS)
    return pa.record_batch(columns)


def _alone(name: str, example: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    try:
        return tokens_of([example], tokenizer)[0]
    except TemplateError as e:
        raise UserError(f"example {name}: the student's chat template refuses its messages: {e}") from None


def tokens_of(
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """input_ids and labels (int32) of dialogues: each whole, supervised from where the answer starts.

    The answer starts where the tokens part from those of the prompt alone. Templates may render a prompt
    alone otherwise; the preflight compares the two.
    """
    prompts = render_all(tokenizer, [example["prompt"] for example in examples], opened=True)
    dialogues = render_all(tokenizer, [[*e["prompt"], *e["completion"]] for e in examples])
    made = []
    for prompt, dialogue in zip(prompts, dialogues, strict=True):
        ids = np.array(dialogue, dtype=np.int32)
        labels = ids.copy()
        labels[: common_prefix(prompt, ids)] = IGNORED
        made.append({"input_ids": ids, "labels": labels})
    return made


def first_dialogue(files: Sequence[Path]) -> list[dict[str, str]]:
    """The messages of the first training example. Raises UserError where there is none."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=["split", "messages"]):
                for row in batch.to_pylist():
                    if row["split"] == "train":
                        messages: list[dict[str, str]] = row["messages"]
                        return messages
    raise UserError("there is no training example")


def splits(files: Sequence[Path], train: Train) -> Splits:
    """Rows by split, without those that are too long, ordered, and with a weight where asked for.

    `files` are what write_tokens() made; they are mapped into memory. A split without any row is not there.
    Raises UserError where there is no measure for the order or the weight asked for.
    """
    datasets.disable_progress_bars()
    rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
    fits = np.concatenate([*lengths(rows)]) <= train.max_length
    of = np.array(rows["split"][:])
    chosen = {name: np.flatnonzero(fits & (of == name)) for name in ("train", "validation")}
    if train.weight_by:
        rows = rows.add_column("weight", _weights(rows, chosen["train"], train))
    chosen["train"] = _ordered(rows, chosen["train"], train)
    return {name: rows.select(which) for name, which in chosen.items() if len(which)}


def lengths(rows: datasets.Dataset) -> Iterator[np.ndarray]:
    """Tokens of each row, some rows at a time."""
    for batch in rows.with_format("arrow", columns=["input_ids"]).iter(batch_size=1024):
        for chunk in batch["input_ids"].chunks:
            yield np.diff(chunk.offsets.to_numpy())


def _ordered(rows: datasets.Dataset, which: np.ndarray, train: Train) -> np.ndarray:
    """By difficulty or length, where that is asked for; each epoch then goes through them in that order."""
    if train.order == "shuffled":
        return which
    by = "pass_rate" if train.order == "easy_first" else "tokens"
    measure = _known(rows, which, by, f'train.order = "{train.order}"')
    return which[np.argsort(-measure if by == "pass_rate" else measure, kind="stable")]


def _weights(rows: datasets.Dataset, which: np.ndarray, train: Train) -> np.ndarray:
    """A weight for each training example, 1 on average: the geometric mean of its tokens' probabilities."""
    sure = np.exp(_known(rows, which, "confidence", f'train.weight_by = "{train.weight_by}"'))
    weights = np.zeros(len(rows))  # of the others nothing is read
    weights[which] = sure / sure.mean()
    return weights


def _known(rows: datasets.Dataset, which: np.ndarray, column: str, why: str) -> np.ndarray:
    values = np.array(rows[column][:], dtype=float)[which]  # None becomes nan
    missing = int(np.isnan(values).sum())
    if missing:
        hint = "; set generate.logprobs (0 keeps their mean alone)" if column == "confidence" else ""
        raise UserError(f"{why}: {missing} of {len(values)} examples have no {column}{hint}")
    return values
