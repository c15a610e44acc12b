"""Translates the recipe's [train] into transformers' TrainingArguments; the same for every objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from datetime import timedelta
from typing import Any

from pipeline.config.train import Train
from pipeline.train.job import TrainJob
from pipeline.train.launcher import accumulation_steps
from pipeline.train.trainer.load import on_cpu, with_fsdp

# How long a process waits for the others, which may be writing a checkpoint to a slow disk or loading a
# model. torch's default is 10 minutes. A process that dies ends all of them at once regardless.
TIMEOUT = timedelta(hours=12)


def _schedule(train: Train) -> str:
    """transformers' schedule "constant" leaves out the warmup."""
    return "constant_with_warmup" if train.schedule == "constant" and train.warmup else train.schedule


def arguments(job: TrainJob, examples: Mapping[str, Sized], processes: int) -> dict[str, Any]:
    """Fields of TrainingArguments. Raises UserError when the batch does not divide among the processes."""
    train = job.train
    return {
        "output_dir": str(job.checkpoints),
        "num_train_epochs": train.epochs,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": _schedule(train),
        "warmup_steps": min(train.warmup, 1 - 1e-9),  # below 1 it is a fraction of the steps
        "optim": train.optimizer,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "per_device_train_batch_size": train.micro_batch_size,
        "per_device_eval_batch_size": train.micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps(train, processes),
        "gradient_checkpointing": train.gradient_checkpointing,
        "train_sampling_strategy": "random" if train.order == "shuffled" else "sequential",
        "bf16": job.bf16,
        "use_cpu": on_cpu(),
        # Under FSDP gradients stay sharded while they accumulate; else each process would hold all of them,
        # in bfloat16.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": with_fsdp()}},
        "ddp_timeout": int(TIMEOUT.total_seconds()),
        # Not "epoch": that validates after the checkpoint, so a kill between the two would lose the result.
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
        **train.trl,  # pipeline/train/trl_arguments.py has refused what must not change
    }
