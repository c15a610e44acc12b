"""Whether examples laid end to end see each other: measured on the user's model, kernel and precision.

A packed batch is one long row; only the attention's own handling of positions keeps its documents apart, and
kernels that do not know of it attend across them without a word. Then the loss of a few examples laid end
to end differs from theirs alone. Leaves out the batches themselves: TRL's collator makes them.
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

from pipeline.train.job import Check, TrainJob
from pipeline.train.trainer import data
from pipeline.train.trainer.tokens import IGNORED

NAME = "packed against unpacked"
MOST, MOST_TOKENS = 8, 4096  # examples laid end to end; two of them, however long they are
# Of the loss, or of 1 where it is smaller; by whether it is bfloat16. Seen with SmolLM2-135M (sdpa on a CPU,
# 8 examples, 640 tokens), before and after training: 2e-7 in float32 and 3e-3 in bfloat16 where documents are
# apart, 0.6 and 1.6 where they see each other.
TOLERANCE = {False: 1e-4, True: 2e-2}


def check(rows: datasets.Dataset, model: PreTrainedModel, job: TrainJob) -> Check:
    """The mean loss of a few short examples, each alone and end to end.

    Every process has to call it. The main one measures: others may not hold the weights yet.
    """
    said = [_measured(rows, model, job) if PartialState().is_main_process else None]
    check: Check = broadcast_object_list(said)[0]
    return check


def _measured(rows: datasets.Dataset, model: PreTrainedModel, job: TrainJob) -> Check:
    chosen = _choose(np.concatenate([*data.lengths(rows)]))
    if len(chosen) < 2:
        return Check(name=NAME, value="fewer than two examples", ok=True)
    if any(p.is_meta or hasattr(p, "ds_id") for p in model.parameters()):
        return _refused(
            "not measured", "the model's weights are not whole in each process before the training"
        )
    few = [rows[n] for n in chosen]
    try:
        with _looking(model), torch.autocast(PartialState().device.type, torch.bfloat16, enabled=job.bf16):
            alone, packed = _mean_loss(model, [[row] for row in few]), _mean_loss(model, [few])
    except (RuntimeError, ValueError, NotImplementedError) as e:  # what kernels say of input they cannot take
        return _refused("not computed", f"the model cannot be computed so: {str(e).strip().splitlines()[0]}")
    value = f"{packed:.5f} against {alone:.5f}, {len(few)} examples"
    if abs(packed - alone) <= TOLERANCE[job.bf16] * max(1, abs(alone)):
        return Check(name=NAME, value=value, ok=True)
    kernel = model.config._attn_implementation
    return _refused(value, f"with attention {kernel!r} packed examples see each other: the loss is {value}")


def _refused(value: str, why: str) -> Check:
    told = f"packing: {why}; set train.packing = false, or leave train.attention out"
    return Check(name=NAME, value=value, ok=False, why=told)


def _choose(lengths: Any) -> list[int]:
    shortest = np.argsort(lengths, kind="stable")[:MOST]
    fit = int((np.cumsum(lengths[shortest]) <= MOST_TOKENS).sum())
    return [int(n) for n in shortest[: max(2, fit)]]


@contextmanager
def _looking(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, no gradients, where the training will be; afterwards all is as it was before."""
    was, before, device = model.training, model.device, PartialState().device
    if device.type != before.type:
        model.to(device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            model.train(was)
            if device.type != before.type:
                model.to(before)  # type: ignore[arg-type]


def _mean_loss(model: PreTrainedModel, batches: Sequence[Sequence[dict[str, Any]]]) -> float:
    """Over all supervised tokens of the batches, by the model's own loss."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)  # no row is padded
    total, count = 0.0, 0
    for examples in batches:
        batch = collate([{name: row[name] for name in ("input_ids", "labels")} for row in examples])
        moved = {name: v.to(model.device) if torch.is_tensor(v) else v for name, v in batch.items()}
        tokens = int((batch["labels"] != IGNORED).sum())
        total += float(model(**moved, use_cache=False).loss) * tokens
        count += tokens
    return total / max(1, count)
