"""objective = "topk_kd": distills the top-k log-probabilities that a teacher gave to the examples' tokens.

The teacher read the very tokens that the student is trained on (pipeline/train/labels.py), so each token with
loss has a label. The loss compares the top-k distribution there; where the teacher gave no answer it is plain
cross-entropy. The log-probabilities are the teacher's distribution at temperature 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.config.train import TopkKD
from pipeline.errors import UserError
from pipeline.train.trainer import data, losses
from pipeline.train.trainer.loss_mask import loss_tokens
from pipeline.train.trainer.tiles import tiled
from pipeline.train.trainer.trainer import (
    Objective,
    Rows,
    Setup,
    StudentTrainer,
    SupervisedTokens,
    student_trainer,
)

MAX_EXCESS = 1e-3  # by which rounded probabilities of a position may sum to more than 1
MIN_LABELED = 0.5  # fraction of the tokens with loss that need a label
BATCH_ROWS = 32  # a long trace with its top 20 tokens takes megabytes
NO_TOKEN = -1  # id where there is no label, and padding of the top-k lists

COLUMNS = datasets.Features(
    {
        # K entries for each token with loss, most likely first, concatenated; K may differ between examples.
        "topk_tokens": datasets.List(datasets.Value("int32")),
        "topk_logprobs": datasets.List(datasets.Value("float32")),
        "labeled_tokens": datasets.Value("int32"),  # how many of the tokens with loss have a label
        "loss_tokens": datasets.Value("int32"),
    }
)


def build(setup: Setup) -> StudentTrainer:
    return student_trainer(setup, TopkKDObjective(setup.job.train.topk_kd))


class TopkKDObjective(Objective):
    """alpha T^2 KL(teacher || student) over the top-k buckets + (1 - alpha) CE, token by token.

    Tokens without a label have alpha = 0.
    """

    columns = ("topk_tokens", "topk_logprobs")

    def __init__(self, settings: TopkKD) -> None:
        self.settings = settings

    def collate(self, rows: Rows, batch: dict[str, Any]) -> dict[str, Any]:
        """topk_tokens (N, K) int64, padded with -1, and topk_logprobs (N, K) float32, of all rows."""
        tokens, logprobs = [], []
        for row in rows:
            count = len(loss_tokens(row))
            tokens.append(np.asarray(row["topk_tokens"], np.int64).reshape(count, -1))
            logprobs.append(np.asarray(row["topk_logprobs"], np.float32).reshape(count, -1))
        return {
            "topk_tokens": torch.from_numpy(_stacked(tokens, NO_TOKEN)),
            "topk_logprobs": torch.from_numpy(_stacked(logprobs, 0)),
        }

    def __call__(self, tokens: SupervisedTokens) -> Tensor:
        targets, settings = tokens.targets, self.settings
        ids, logprobs = (tokens.extra[name].to(targets.device) for name in self.columns)
        if len(ids) != len(targets):
            raise ValueError(f"{len(ids)} top-k labels for {len(targets)} tokens with loss")

        def of_slice(logits: Tensor, targets: Tensor, ids: Tensor, logprobs: Tensor) -> Tensor:
            alpha = settings.alpha * (ids != NO_TOKEN).any(-1)
            divergence = losses.topk_kl(logits, ids, logprobs, settings.temperature)
            ce = losses.cross_entropy(logits, targets)
            return losses.combine(alpha, settings.temperature, divergence, ce)

        return tiled(of_slice, tokens.hidden, tokens.head, targets, ids, logprobs)


def add_labels(
    rows: datasets.Dataset, labels: Sequence[Path], vocabulary: int, scratch: Path
) -> datasets.Dataset:
    """Adds COLUMNS to rows (id, input_ids, labels), from Parquet files of SoftLabels.

    `vocabulary`: the number of the student's logits. `scratch`: an empty folder for intermediate files, so
    that nothing has to fit into memory. Raises UserError for a token id that the student lacks, and for
    labels of other tokens than those of the example.
    """
    stored: Any = []
    index: dict[str, int] = {}
    if filled := [str(path) for path in labels if pq.read_metadata(path).num_rows]:  # not of validation alone
        stored = datasets.Dataset.from_parquet(
            filled,
            columns=["id", "k", "tokens", "top_tokens", "top_logprobs"],
            batch_size=BATCH_ROWS,
            cache_dir=str(scratch),
        ).with_format("numpy")
        index = {name: n for n, name in enumerate(stored["id"][:])}
    return rows.map(
        lambda row: _labels(row, stored[index[row["id"]]] if row["id"] in index else None, vocabulary),
        features=datasets.Features({**rows.features, **COLUMNS}),
        writer_batch_size=BATCH_ROWS,
        cache_file_name=str(scratch / "labeled.arrow"),
        new_fingerprint="labeled",  # hashing the function would load everything that it references
    )


def counts(rows: datasets.Dataset, max_length: int) -> tuple[int, int]:
    """Of rows to train on, made by add_labels(): the tokens with a label, and all tokens with loss."""
    columns = (rows[name][:] for name in ("split", "labeled_tokens", "loss_tokens"))
    fits = data.longest_answer(rows) <= max_length
    counted = [each[2:] for each in zip(fits, *columns, strict=True) if each[0] and each[1] == "train"]
    return sum(labeled for labeled, _ in counted), sum(tokens for _, tokens in counted)


def check(labeled: int, tokens: int) -> None:
    """Raises UserError where too few of the tokens with loss have a label."""
    if (share := labeled / max(1, tokens)) >= MIN_LABELED:
        return
    raise UserError(
        f"topk_kd: {share:.1%} of the tokens with loss have a label, {MIN_LABELED:.0%} are needed: "
        "lower generate.max_failed_fraction, so that failed requests are tried again"
    )


def _labels(row: Mapping[str, Any], stored: Mapping[str, Any] | None, vocabulary: int) -> dict[str, Any]:
    """COLUMNS of one row; `stored` is its SoftLabels, None or without tokens where there was no answer."""
    wanted, k = loss_tokens(row), int(stored["k"]) if stored else 1
    top = np.full((len(wanted), k), NO_TOKEN, np.int32)
    logprobs = np.zeros(top.shape, np.float32)
    if stored and len(stored["tokens"]):
        if not np.array_equal(wanted, stored["tokens"]):
            raise UserError(
                f"example {row['id']}: its soft labels are of other tokens than it has now: make them again "
                "with --again"
            )
        top = np.asarray(stored["top_tokens"], np.int32).reshape(-1, k)
        logprobs = np.asarray(stored["top_logprobs"], np.float32).reshape(-1, k)
        _check_ids(row["id"], top, vocabulary)
        none = ~_is_distribution(top, logprobs)[:, None]
        top, logprobs = np.where(none, NO_TOKEN, top), np.where(none, 0, logprobs)
    return {
        "topk_tokens": top.reshape(-1),
        "topk_logprobs": logprobs.reshape(-1),
        "labeled_tokens": int((top != NO_TOKEN).any(-1).sum()),
        "loss_tokens": len(wanted),
    }


def _is_distribution(ids: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    """Which positions (m,) of ids and logprobs (m, K) are distributions: a server may send anything."""
    ordered = np.sort(ids, -1)
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(-1)
    mass = np.where(ids >= 0, np.exp(np.minimum(logprobs, 1.0)), 0).sum(-1)
    return np.asarray(~repeated & (mass <= 1 + MAX_EXCESS))


def _check_ids(example: str, ids: np.ndarray, vocabulary: int) -> None:
    if (highest := int(ids.max(initial=NO_TOKEN))) >= vocabulary:
        raise UserError(
            f"example {example}: its teacher named token {highest}, and the student has {vocabulary}: "
            'topk_kd needs a teacher with the student\'s tokenizer; train.objective = "sft" does not'
        )


def _stacked(parts: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Arrays (n_i, K_i) stacked to (sum n_i, max K_i), padded on the right."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts]
    )
