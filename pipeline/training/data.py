"""The examples as the training takes them: read from Parquet, split, ordered, weighed, turned into tokens.

The tokens are made here and not by TRL, so that the preflight sees every row before a trainer is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import datasets
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.training.job import TrainJob
from pipeline.training.tokens import IGNORED, common_prefix, render

Splits = dict[str, datasets.Dataset]
_DROPPED = ["messages", "problem_id", "source", "teacher"]


def examples(job: TrainJob) -> Splits:
    """Rows by split, with id, prompt and completion (messages), and a weight where asked for.

    A split without any row is not there. Raises UserError when there is nothing to learn from, or no measure
    for the order or the weight asked for.
    """
    datasets.disable_progress_bars()
    with PartialState().main_process_first():
        rows = datasets.Dataset.from_parquet([str(path) for path in job.examples], cache_dir=str(job.cache))
        rows = rows.map(_as_completion, remove_columns=_DROPPED)
        splits = {
            split: rows.filter(lambda of, split=split: of == split, input_columns="split")
            for split in ("train", "validation")
        }
        if not len(splits["train"]):
            raise UserError("there is no training example")
        splits["train"] = _weighed(_ordered(splits["train"], job.train), job.train)
    return {name: rows for name, rows in splits.items() if len(rows)}


def tokenised(splits: Splits, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """Adds input_ids and labels: the whole dialogue, supervised from where the answer starts."""
    with PartialState().main_process_first():
        return {
            name: rows.map(lambda example: tokens_of(example, tokenizer)) for name, rows in splits.items()
        }


def tokens_of(example: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The tokens of one dialogue. The answer starts where they part from those of the prompt alone.

    Templates may render a prompt alone otherwise; the preflight compares the two.
    """
    prompt = render(tokenizer, example["prompt"], opened=True)
    whole = render(tokenizer, [*example["prompt"], *example["completion"]])
    shared = common_prefix(prompt, whole)
    return {"input_ids": whole, "labels": [IGNORED] * shared + whole[shared:]}


def _as_completion(example: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": example["messages"][:-1], "completion": example["messages"][-1:]}


def _ordered(rows: datasets.Dataset, train: Train) -> datasets.Dataset:
    """By difficulty or length, where that is asked for; each epoch then goes through them in that order."""
    if train.order == "shuffled":
        return rows
    by = "pass_rate" if train.order == "easy_first" else "tokens"
    measure = _known(rows, by, f'train.order = "{train.order}"')
    order = sorted(range(len(rows)), key=lambda i: -measure[i] if by == "pass_rate" else measure[i])
    return rows.select(order)


def _weighed(rows: datasets.Dataset, train: Train) -> datasets.Dataset:
    """A weight for each example, 1 on average: the geometric mean of its tokens' probabilities."""
    if train.weight_by is None:
        return rows
    sure = [math.exp(x) for x in _known(rows, "confidence", f'train.weight_by = "{train.weight_by}"')]
    return rows.add_column("weight", [x * len(sure) / sum(sure) for x in sure])


def _known(rows: datasets.Dataset, column: str, why: str) -> list[float]:
    values = list(rows[column])
    missing = values.count(None)
    if missing:
        hint = "; set generate.logprobs (0 keeps their mean alone)" if column == "confidence" else ""
        raise UserError(f"{why}: {missing} of {len(values)} examples have no {column}{hint}")
    return values
