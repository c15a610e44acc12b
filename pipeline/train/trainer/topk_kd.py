"""objective = "topk_kd": distills the top-k log-probabilities that were stored with the traces.

Aligns the teacher's sampled tokens with the student's tokenization of the same text (add_labels). At aligned
positions the loss compares the stored top-k distribution; elsewhere it is plain cross-entropy. The stored
log-probabilities are taken as the teacher's distribution at temperature 1, which vLLM returns whatever the
sampling parameters.
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

from pipeline.config.train import TopkKD
from pipeline.errors import UserError
from pipeline.train.trainer import losses
from pipeline.train.trainer.special_tokens import IGNORED, common_prefix
from pipeline.train.trainer.tiles import tiled
from pipeline.train.trainer.trainer import (
    Objective,
    Rows,
    Setup,
    StudentTrainer,
    SupervisedTokens,
    student_trainer,
)

WINDOW = 128  # tokens of each text that are searched for a match after the texts diverge
MIN_RUN = 4  # consecutive equal tokens that count as a match
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
    rows: datasets.Dataset, traces: Sequence[Path], vocabulary: int, scratch: Path, reasoning: bool = True
) -> datasets.Dataset:
    """Adds COLUMNS to rows (id, input_ids, labels), from the filter stage's Parquet files.

    `vocabulary`: the number of the student's logits. `scratch`: an empty folder for intermediate files, so
    that nothing has to fit into memory. `reasoning`: whether the examples hold the traces' reasoning or only
    the responses. Raises UserError for a token id that the student lacks.
    """
    stored = datasets.Dataset.from_parquet(
        [str(path) for path in traces],
        columns=["id", "logprobs"],
        filters=pyarrow.dataset.field("id").isin(rows["id"][:]),
        batch_size=BATCH_ROWS,
        cache_dir=str(scratch),
    ).with_format("numpy")
    index = {name: n for n, name in enumerate(stored["id"][:])}
    return rows.map(
        lambda row: _labels(
            row, stored[index[row["id"]]]["logprobs"] if row["id"] in index else None, vocabulary, reasoning
        ),
        features=datasets.Features({**rows.features, **COLUMNS}),
        writer_batch_size=BATCH_ROWS,
        cache_file_name=str(scratch / "labeled.arrow"),
        new_fingerprint="labeled",  # hashing the function would load everything that it references
    )


def counts(rows: datasets.Dataset) -> tuple[int, int]:
    """Of rows made by add_labels(): the tokens with a label, and all tokens with loss."""
    return sum(rows["labeled_tokens"][:]), sum(rows["loss_tokens"][:])


def check(labeled: int, tokens: int) -> None:
    """Raises UserError where too few of the tokens with loss have a label."""
    if (share := labeled / max(1, tokens)) >= MIN_LABELED:
        return
    why = "the teacher needs the student's tokenizer"
    if not labeled:
        why = f"set generate.logprobs = 20 before sampling; {why}"
    raise UserError(
        f"topk_kd: {share:.1%} of the tokens with loss have a label, {MIN_LABELED:.0%} are needed: {why}"
    )


def loss_tokens(row: Mapping[str, Any]) -> np.ndarray:
    """The ids (n,) of a row's tokens with loss, without its first token, which nothing predicts."""
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    return ids[1:][labels[1:] != IGNORED]


def align(wanted: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """For each id wanted (n,) its position in `sampled` (m,), or -1: (n,).

    Walks along both. Where they diverge, matches runs of MIN_RUN or more tokens within the next WINDOW of
    each, so the time is linear in the length, whatever the texts.
    """
    position = np.full(len(wanted), -1)
    i = j = 0
    while i < len(wanted) and j < len(sampled):
        if run := common_prefix(wanted[i:], sampled[j:]):
            position[i : i + run] = np.arange(j, j + run)
            i, j = i + run, j + run
            continue
        windows = wanted[i : i + WINDOW].tolist(), sampled[j : j + WINDOW].tolist()
        matches = SequenceMatcher(None, *windows, autojunk=False).get_matching_blocks()
        blocks = [block for block in matches if block.size >= MIN_RUN]
        for block in blocks:
            position[i + block.a : i + block.a + block.size] = np.arange(block.size) + j + block.b
        if blocks:
            last = blocks[-1]
            i, j = i + last.a + last.size, j + last.b + last.size
        else:
            i, j = i + WINDOW // 2, j + WINDOW // 2
    return position


def _labels(
    row: Mapping[str, Any], stored: Mapping[str, Any] | None, vocabulary: int, reasoning: bool
) -> dict[str, Any]:
    """COLUMNS of one row; `stored` is its trace's Logprobs, None where none were kept."""
    wanted = loss_tokens(row)
    k = int(stored["k"]) if stored else 0
    tokens = np.full((len(wanted), max(k, 1)), NO_TOKEN, np.int32)
    logprobs = np.zeros(tokens.shape, np.float32)
    if stored and k:
        top = np.asarray(stored["top_tokens"], np.int32).reshape(-1, k)
        top_logprobs = np.asarray(stored["top_logprobs"], np.float32).reshape(-1, k)
        _check_ids(row["id"], top, vocabulary)
        start = 0 if reasoning else int(stored["reasoning_tokens"])
        position = align(wanted, np.asarray(stored["tokens"])[start:])
        position[position >= 0] += start
        labeled = np.flatnonzero(position >= 0)
        labeled = labeled[_is_distribution(top, top_logprobs)[position[labeled]]]
        tokens[labeled], logprobs[labeled] = top[position[labeled]], top_logprobs[position[labeled]]
    return {
        "topk_tokens": tokens.reshape(-1),
        "topk_logprobs": logprobs.reshape(-1),
        "labeled_tokens": int((tokens != NO_TOKEN).any(-1).sum()),
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
