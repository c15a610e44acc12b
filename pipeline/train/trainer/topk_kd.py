"""objective = "topk_kd": the teacher's log-probabilities, kept with the traces, as soft labels of the examples.

`add_labels()` finds them: an example's supervised tokens are its trace's text as the student's tokenizer
writes it, with tags and an end of its own; the tokens that the teacher drew are laid beside them, and where
both agree the student's token gets what the teacher thought of all tokens there. Elsewhere the loss is
cross-entropy alone. What the server sent is taken for the teacher's own distribution at temperature 1, which
vLLM sends whatever the sampling. Leaves out the divergence (objectives.py) and who draws the traces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.dataset
import torch
from torch import Tensor

from pipeline.config.training import TopkKD
from pipeline.errors import UserError
from pipeline.train.trainer import objectives
from pipeline.train.trainer.tokens import IGNORED, common_prefix
from pipeline.train.trainer.trainer import Objective, Rows, Supervised

WINDOW = 128  # tokens of each side among which two texts that parted are brought together again
RUN = 4  # tokens that have to agree one after the other for that
MOST_OVER = 1e-3  # by which the probabilities at a position may add up to more than 1: they were rounded
LEAST_MATCHED = 0.5  # share of the supervised tokens that need a soft label
ROWS = 32  # at once: a long trace with its 20 likeliest tokens is megabytes
NONE = -1  # the token id where there is no soft label

COLUMNS = datasets.Features(
    {
        # For each supervised token K entries, likeliest first, end to end; K may differ between examples.
        "soft_tokens": datasets.List(datasets.Value("int32")),
        "soft_logprobs": datasets.List(datasets.Value("float32")),
        "soft_matched": datasets.Value("int32"),  # how many of the supervised tokens have any
        "soft_supervised": datasets.Value("int32"),
    }
)


class SoftObjective(Objective):
    """alpha T^2 KL(teacher || student) over the kept tokens and the rest + (1 - alpha) CE, token by token."""

    columns = ("soft_tokens", "soft_logprobs")

    def __init__(self, settings: TopkKD) -> None:
        self.settings = settings

    def collate(self, rows: Rows, batch: dict[str, Any]) -> dict[str, Any]:
        """soft_tokens (N, K) int64, -1 fills up, soft_logprobs (N, K) float32, of all supervised tokens."""
        tokens, logprobs = [], []
        for row in rows:
            count = len(supervised(row))
            tokens.append(np.asarray(row["soft_tokens"], np.int64).reshape(count, -1))
            logprobs.append(np.asarray(row["soft_logprobs"], np.float32).reshape(count, -1))
        return {
            "soft_tokens": torch.from_numpy(_stacked(tokens, NONE)),
            "soft_logprobs": torch.from_numpy(_stacked(logprobs, 0)),
        }

    def __call__(self, given: Supervised) -> Tensor:
        """(N,): see the class. Tokens without a soft label have the weight 1 of cross-entropy."""
        logits, targets = given.logits, given.targets
        ids, logprobs = (given.extra[name].to(logits.device) for name in self.columns)
        if len(ids) != len(targets):
            raise ValueError(f"soft labels of {len(ids)} tokens, and {len(targets)} are supervised")
        alpha = self.settings.alpha * (ids != NONE).any(-1)
        temperature = self.settings.temperature
        divergence = objectives.topk_kl(logits, ids, logprobs, temperature)
        return objectives.combine(alpha, temperature, divergence, objectives.cross_entropy(logits, targets))


def add_labels(
    rows: datasets.Dataset, traces: Sequence[Path], vocabulary: int, scratch: Path, thought: bool = True
) -> datasets.Dataset:
    """The rows (id, input_ids, labels), with COLUMNS added from the Parquet files of the filter stage.

    `vocabulary`: how many logits the student has. `scratch`: a folder of its own for what is read and made;
    neither has to fit into memory. `thought`: whether the examples have the traces' thoughts, or the
    responses alone. Raises UserError where an id is none of the student's.
    """
    kept = datasets.Dataset.from_parquet(
        [str(path) for path in traces],
        columns=["id", "logprobs"],
        filters=pyarrow.dataset.field("id").isin(rows["id"][:]),
        batch_size=ROWS,
        cache_dir=str(scratch),
    ).with_format("numpy")
    found = {name: at for at, name in enumerate(kept["id"][:])}
    return rows.map(
        lambda row: _labels(
            row, kept[found[row["id"]]]["logprobs"] if row["id"] in found else None, vocabulary, thought
        ),
        features=datasets.Features({**rows.features, **COLUMNS}),
        writer_batch_size=ROWS,
        cache_file_name=str(scratch / "labelled.arrow"),
        new_fingerprint="labelled",  # hashing the function would load all that it holds
    )


def counts(rows: datasets.Dataset) -> tuple[int, int]:
    """How many supervised tokens of rows made by add_labels() have a soft label, and how many there are."""
    return sum(rows["soft_matched"][:]), sum(rows["soft_supervised"][:])


def check(matched: int, tokens: int) -> None:
    """Raise UserError where too few of the supervised tokens found their soft label."""
    if (share := matched / max(1, tokens)) >= LEAST_MATCHED:
        return
    why = "the teacher's tokenizer has to be the student's"
    if not matched:
        why = f"set generate.logprobs = 20 before traces are drawn; {why}"
    raise UserError(
        f"soft: {share:.1%} of the supervised tokens have a soft label, {LEAST_MATCHED:.0%} are needed: {why}"
    )


def supervised(row: Mapping[str, Any]) -> np.ndarray:
    """The ids (n,) of a row's supervised tokens. The first token of a row is none: nothing predicts it."""
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    return ids[1:][labels[1:] != IGNORED]


def align(wanted: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """For each of the ids wanted (n,) the position in `drawn` (m,) of the token that it is, or -1: (n,).

    Both are walked along together. Where they part, the next WINDOW of each are compared, and runs of RUN
    tokens or more bring them together again. So the time grows with the length alone, whatever is in them.
    """
    at = np.full(len(wanted), -1)
    i = j = 0
    while i < len(wanted) and j < len(drawn):
        if run := common_prefix(wanted[i:], drawn[j:]):
            at[i : i + run] = np.arange(j, j + run)
            i, j = i + run, j + run
            continue
        windows = wanted[i : i + WINDOW].tolist(), drawn[j : j + WINDOW].tolist()
        blocks = SequenceMatcher(None, *windows, autojunk=False).get_matching_blocks()
        blocks = [block for block in blocks if block.size >= RUN]
        for block in blocks:
            at[i + block.a : i + block.a + block.size] = np.arange(block.size) + j + block.b
        on = (
            (blocks[-1].a + blocks[-1].size, blocks[-1].b + blocks[-1].size) if blocks else (WINDOW // 2,) * 2
        )
        i, j = i + on[0], j + on[1]
    return at


def _labels(
    row: Mapping[str, Any], trace: Mapping[str, Any] | None, vocabulary: int, thought: bool
) -> dict[str, Any]:
    """COLUMNS of one row; `trace` its Logprobs, None where none were kept."""
    wanted = supervised(row)
    k = int(trace["k"]) if trace else 0
    tokens = np.full((len(wanted), max(k, 1)), NONE, np.int32)
    logprobs = np.zeros(tokens.shape, np.float32)
    if trace and k:
        top = np.asarray(trace["top_tokens"], np.int32).reshape(-1, k)
        top_logprobs = np.asarray(trace["top_logprobs"], np.float32).reshape(-1, k)
        _check_ids(row["id"], top, vocabulary)
        start = 0 if thought else int(trace["thought"])
        at = align(wanted, np.asarray(trace["tokens"])[start:])
        at[at >= 0] += start
        labelled = np.flatnonzero(at >= 0)
        labelled = labelled[_is_distribution(top, top_logprobs)[at[labelled]]]
        tokens[labelled], logprobs[labelled] = top[at[labelled]], top_logprobs[at[labelled]]
    return {
        "soft_tokens": tokens.reshape(-1),
        "soft_logprobs": logprobs.reshape(-1),
        "soft_matched": int((tokens != NONE).any(-1).sum()),
        "soft_supervised": len(wanted),
    }


def _is_distribution(ids: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    """Which positions (m,) of ids and log-probabilities (m, K) can be true: a server may send anything."""
    ordered = np.sort(ids, -1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(-1)
    mass = np.where(ids >= 0, np.exp(np.minimum(logprobs, 1.0)), 0).sum(-1)
    return np.asarray(~twice & (mass <= 1 + MOST_OVER))


def _check_ids(example: str, ids: np.ndarray, vocabulary: int) -> None:
    if (highest := int(ids.max(initial=NONE))) >= vocabulary:
        raise UserError(
            f"example {example}: its teacher named token {highest}, and the student has {vocabulary}: soft "
            'labels need a teacher with the student\'s tokenizer; train.objective = "sft" does not'
        )


def _stacked(parts: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Arrays (n_i, K_i) one under the other, (sum n_i, max K_i), filled up on the right."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts]
    )
