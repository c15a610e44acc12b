"""The recipe's [train] as the arguments of transformers' Trainer, for every objective alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from datetime import timedelta
from typing import Any

from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.train.job import TrainJob
from pipeline.train.trainer.load import on_cpu, with_fsdp

# How long a process waits for the others. They may have much to do alone: a checkpoint on a slow disk, a
# model that is read once. torch's own is 10 minutes; a process that dies ends all of them at once anyway.
TIMEOUT = timedelta(hours=12)


def arguments(job: TrainJob, examples: Mapping[str, Sized], processes: int) -> dict[str, Any]:
    """Fields of TrainingArguments. Raises UserError when the batch does not divide among the processes."""
    train = job.train
    return {
        "output_dir": str(job.checkpoints),
        "num_train_epochs": train.epochs,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.schedule,
        "warmup_steps": min(train.warmup, 1 - 1e-9),  # below 1 it is a share of the steps
        "optim": train.optimizer,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "per_device_train_batch_size": train.micro_batch_size,
        "per_device_eval_batch_size": train.micro_batch_size,
        "gradient_accumulation_steps": _accumulation(train, processes),
        "gradient_checkpointing": train.gradient_checkpointing,
        "train_sampling_strategy": "random" if train.order == "shuffled" else "sequential",
        "bf16": job.bf16,
        "use_cpu": on_cpu(),
        # Under FSDP gradients are to stay shared out while they are summed up: else each process holds all of
        # them, in bfloat16.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": with_fsdp()}},
        "ddp_timeout": int(TIMEOUT.total_seconds()),
        # Not "epoch": that comes after the checkpoint, so a kill between the two would lose it.
        "eval_strategy": "steps" if "validation" in examples else "no",
        "eval_steps": math.ceil(len(examples["train"]) / train.batch_size),
        "prediction_loss_only": True,
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "dataloader_pin_memory": not on_cpu(),
        "seed": job.seed,
        "data_seed": job.seed,
        "report_to": list(train.trackers) or "none",
        "run_name": job.name,
        "project": "retort",
        "disable_tqdm": True,
    }


def _accumulation(train: Train, processes: int) -> int:
    """How many micro batches a process puts into one step."""
    at_once = train.micro_batch_size * processes
    if train.batch_size % at_once:
        raise UserError(
            f"train.batch_size = {train.batch_size} is no multiple of micro_batch_size x processes = "
            f"{train.micro_batch_size} x {processes}"
        )
    return train.batch_size // at_once
