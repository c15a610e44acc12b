"""Measures whether packed examples are isolated, with the user's model, attention kernel and precision.

A packed batch is one long row; only the attention's use of positions separates its documents, and kernels
without support for it attend across them silently. Then the loss of a few packed examples differs from their
loss one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from pipeline.train.job import PreflightCheck, TrainJob
from pipeline.train.trainer import data
from pipeline.train.trainer.special_tokens import IGNORED

NAME = "packed examples are isolated"
MAX_EXAMPLES, MAX_TOKENS = 8, 4096  # packed for the measurement; always two, however long they are
# Relative to the loss, or to 1 where it is smaller; by whether it is bfloat16. Measured with SmolLM2-135M
# (sdpa on a CPU, 8 examples, 640 tokens), before and after training: 2e-7 in float32 and 3e-3 in bfloat16
# where documents are isolated, 0.6 and 1.6 where they are not.
TOLERANCE = {False: 1e-4, True: 2e-2}


def check(rows: datasets.Dataset, model: PreTrainedModel, job: TrainJob) -> PreflightCheck:
    """Compares the mean loss of a few short examples one by one and packed.

    Every process has to call it. The main one measures, as others may not hold the weights yet.
    """
    results = [_measure(rows, model, job) if PartialState().is_main_process else None]
    result: PreflightCheck = broadcast_object_list(results)[0]
    return result


def _measure(rows: datasets.Dataset, model: PreTrainedModel, job: TrainJob) -> PreflightCheck:
    chosen = _choose(data.longest_answer(rows))
    if len(chosen) < 2:
        return PreflightCheck(name=NAME, value="fewer than two examples", ok=True)
    if any(p.is_meta or hasattr(p, "ds_id") for p in model.parameters()):
        return _failed("not measured", "no process holds the model's whole weights before the training")
    examples = [rows[n] for n in chosen]
    try:
        with (
            _evaluating(model),
            torch.autocast(PartialState().device.type, torch.bfloat16, enabled=job.bf16),
        ):
            single, packed = _mean_loss(model, [[row] for row in examples]), _mean_loss(model, [examples])
    except (RuntimeError, ValueError, NotImplementedError) as e:  # raised by kernels for unsupported input
        return _failed("not measured", f"the forward pass failed: {str(e).strip().splitlines()[0]}")
    value = f"loss {packed:.5f}, one by one {single:.5f}, {len(examples)} examples"
    if abs(packed - single) <= TOLERANCE[job.bf16] * max(1, abs(single)):
        return PreflightCheck(name=NAME, value=value, ok=True)
    kernel = model.config._attn_implementation
    return _failed(value, f"with attention {kernel!r} packed examples attend to each other: {value}")


def _failed(value: str, why: str) -> PreflightCheck:
    hint = f"packing: {why}; set train.packing = false, or remove train.attention"
    return PreflightCheck(name=NAME, value=value, ok=False, why=hint)


def _choose(lengths: Any) -> list[int]:
    shortest = np.argsort(lengths, kind="stable")[:MAX_EXAMPLES]
    fit = int((np.cumsum(lengths[shortest]) <= MAX_TOKENS).sum())
    return [int(n) for n in shortest[: max(2, fit)]]


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode without gradients on the training's device; restores mode, device and random state."""
    was_training, before, device = model.training, model.device, PartialState().device
    if device.type != before.type:
        model.to(device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
            if device.type != before.type:
                model.to(before)  # type: ignore[arg-type]


def _mean_loss(model: PreTrainedModel, batches: Sequence[Sequence[dict[str, Any]]]) -> float:
    """The model's own loss, averaged over all tokens with loss."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)  # adds no padding
    total, count = 0.0, 0
    for examples in batches:
        batch = collate([{name: row[name] for name in ("input_ids", "labels")} for row in examples])
        moved = {name: v.to(model.device) if torch.is_tensor(v) else v for name, v in batch.items()}
        tokens = int((batch["labels"] != IGNORED).sum())
        total += float(model(**moved, use_cache=False).loss) * tokens
        count += tokens
    return total / max(1, count)
