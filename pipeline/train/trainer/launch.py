"""Trains the student: `accelerate launch -m pipeline.train.trainer.launch JOB.json`, after prepare.py.

Only the last message, the assistant's, has loss. Trained weights and optimizer state are float32, matrix
products bfloat16 where the hardware supports it. Resumes from the newest complete checkpoint.
Exit codes: 0 the model is complete; 2 refused, with one line; 3 it can be tried
again; 143 stopped by SIGTERM with a checkpoint.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from pathlib import Path

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # TRL reports each training; read when it is imported

import torch
from accelerate import PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, Trainer

from pipeline.errors import Stopped, UserError
from pipeline.train import checkpoints
from pipeline.train.job import Prepared, TrainJob
from pipeline.train.trainer import callbacks, data, load, packing, preflight, special_tokens
from pipeline.train.trainer.arguments import TIMEOUT, arguments
from pipeline.train.trainer.save import save
from pipeline.train.trainer.trainer import Setup

STOPPED = 143  # exit code of a process that SIGTERM ended


def train(job: TrainJob) -> bool:
    """Trains and writes the model; returns False when stopped by SIGTERM. Raises UserError."""
    PartialState(cpu=load.on_cpu(), timeout=TIMEOUT)
    if not job.prepared.exists():
        raise UserError(
            "the examples are not prepared: run python -m pipeline.train.trainer.prepare JOB.json first"
        )
    prepared = Prepared.model_validate_json(job.prepared.read_bytes())
    splits = data.splits(prepared.files, job.train)
    tokenizer, model = load.tokenizer(job), load.student(job)
    special_tokens.set_padding(tokenizer, prepared.end)
    special_tokens.fit_embeddings(model, tokenizer)
    if job.train.packing:
        _check_packing(splits, model, prepared, job)
    stop = callbacks.StopOnSigterm()
    watchers = [callbacks.StepLog(job.log), callbacks.MarkCheckpoints(), stop]
    settings = arguments(job, splits, PartialState().num_processes)
    objective = importlib.import_module(f"pipeline.train.trainer.{job.train.objective}")
    trainer: Trainer = objective.build(
        Setup(job, splits, model, tokenizer, prepared.end, settings, callbacks=watchers)
    )
    _reduce_in_float32(trainer)
    checkpoint = checkpoint_for(trainer, job.checkpoints)
    print(f"training on {trainer.args.device}, bf16: {trainer.args.bf16}, from {checkpoint or 'the start'}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not stop.stopped:
        save(trainer, tokenizer, prepared.messages, job)
    return not stop.stopped


def checkpoint_for(trainer: Trainer, folder: Path) -> Path | None:
    """The checkpoint to resume from. After the last step the trainer is left without an epoch to go on with.

    transformers begins the epoch in which a checkpoint was made, and ends it one step later at the earliest.
    """
    checkpoint = checkpoints.newest(folder)
    if checkpoint and checkpoints.finished(checkpoint):
        trainer.args.num_train_epochs = math.floor(trainer.args.num_train_epochs)
    return checkpoint


def _reduce_in_float32(trainer: Trainer) -> None:
    """Makes FSDP2 reduce gradients in float32; by default accelerate uses bfloat16, also for the loss."""
    plugin = trainer.accelerator.state.fsdp_plugin if load.with_fsdp() else None
    if plugin is not None and plugin.fsdp_version == 2 and trainer.args.bf16:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


def _check_packing(splits: data.Splits, model: PreTrainedModel, prepared: Prepared, job: TrainJob) -> None:
    """Makes the preflight's last check, which needs the model. Raises UserError in every process."""
    check = packing.check(splits["train"], model, job)
    if PartialState().is_main_process:
        checks = (*prepared.preflight.checks, check)
        preflight.conclude(prepared.preflight.model_copy(update={"checks": checks}), job)
    elif not check.ok:
        raise UserError(check.why)


def main(job_file: str) -> int:
    job = TrainJob.model_validate_json(Path(job_file).read_bytes())
    try:
        return 0 if train(job) else STOPPED
    except Stopped as e:
        print(f"error: {e}", file=sys.stderr, flush=True)
        return 3
    except UserError as e:
        if PartialState().is_main_process:
            job.refusal.write_text(f"{e}\n", encoding="utf-8")
        print(f"error: {e}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: accelerate launch -m pipeline.train.trainer.launch JOB.json")
    sys.exit(main(sys.argv[1]))
