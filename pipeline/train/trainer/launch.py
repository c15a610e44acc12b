"""Trains the student: `accelerate launch -m pipeline.train.trainer.launch JOB.json`, after prepare.py.

The loss is on the last message alone, the assistant's. Weights that are trained and their optimizer are kept
in float32, matrix products run in bfloat16 where the machine has them. Resumes from the newest whole
checkpoint.
Exit codes: 0 the model is there; 2 refused, in one line; 143 stopped by SIGTERM with a checkpoint saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # TRL reports each training; read when it is imported

import torch
from accelerate import PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import SFTConfig

from pipeline.errors import UserError
from pipeline.train import checkpoints
from pipeline.train.job import Prepared, TrainJob
from pipeline.train.trainer import (
    callbacks,
    data,
    load,
    logit_kd,
    on_policy,
    packing,
    preflight,
    tokens,
    topk_kd,
)
from pipeline.train.trainer.arguments import TIMEOUT, arguments
from pipeline.train.trainer.save import save
from pipeline.train.trainer.trainer import Objective, StudentTrainer, Text

STOPPED = 143  # exit code, as of a process that SIGTERM ended


def train(job: TrainJob) -> bool:
    """Train and write the model; False when it was asked to stop. Raises UserError."""
    PartialState(cpu=load.on_cpu(), timeout=TIMEOUT)
    if not job.prepared.exists():
        raise UserError(
            "the examples are not prepared: python -m pipeline.train.trainer.prepare JOB.json first"
        )
    given = Prepared.model_validate_json(job.prepared.read_bytes())
    splits = data.splits(given.files, job.train)
    tokenizer, model = load.tokenizer(job), load.student(job)
    tokens.set_padding(tokenizer, given.end)
    tokens.fit_embeddings(model, tokenizer)
    if job.train.packing:
        _look_at_packing(splits, model, given, job)
    stop = callbacks.StopWhenAsked()
    watchers = [callbacks.StepLog(job.log), callbacks.Checkpoints(), stop]
    trainer = _trainer(job, splits, tokenizer, model, given.end, watchers)
    _sum_in_float32(trainer)
    checkpoint = checkpoints.newest(job.checkpoints)
    print(f"training on {trainer.args.device}, bf16: {trainer.args.bf16}, from {checkpoint or 'the start'}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not stop.stopped:
        save(trainer, tokenizer, given.messages, job)
    return not stop.stopped


def _sum_in_float32(trainer: Trainer) -> None:
    """Have FSDP sum gradients in float32. accelerate would have it sum, and give losses, in bfloat16."""
    plugin = trainer.accelerator.state.fsdp_plugin if load.with_fsdp() else None
    if plugin is not None and plugin.fsdp_version == 2 and trainer.args.bf16:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


def _look_at_packing(splits: data.Splits, model: PreTrainedModel, given: Prepared, job: TrainJob) -> None:
    """The preflight's last check, which needs the model. Raises UserError, in every process."""
    check = packing.check(splits["train"], model, job)
    if PartialState().is_main_process:
        whole = given.table.model_copy(update={"checks": (*given.table.checks, check)})
        preflight.conclude(whole, job)
    elif not check.ok:
        raise UserError(check.why)


def _trainer(
    job: TrainJob,
    splits: data.Splits,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    end: int,
    watchers: list[Any],
) -> Trainer:
    """The trainer of the recipe's objective. Raises UserError for settings that it refuses."""
    settings = arguments(job, splits, PartialState().num_processes)
    if job.train.objective == "on_policy":
        return on_policy.trainer(
            model,
            tokenizer,
            job.teachers[0].model,
            splits["train"],
            settings,
            job.train.on_policy,
            callbacks=watchers,
            validation=splits.get("validation"),
            adapters=load.adapters(job.train),
        )
    text = Text()
    try:
        return StudentTrainer(
            objective=_objective(job, model, tokenizer, text),
            text=text,
            model=model,
            args=SFTConfig(
                **settings,
                max_length=None,  # TRL would cut; the preflight refuses instead
                padding_free=job.train.packing,
                eos_token=str(tokenizer.convert_ids_to_tokens(end)),
            ),
            train_dataset=splits["train"],
            eval_dataset=splits.get("validation"),
            processing_class=tokenizer,
            peft_config=load.adapters(job.train),
            callbacks=watchers,
        )
    except ValueError as e:
        raise UserError(f"train: {str(e).splitlines()[0]}") from e


def _objective(
    job: TrainJob, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Objective
) -> Objective:
    if job.train.objective == "topk_kd":
        return topk_kd.SoftObjective(job.train.topk_kd)
    if job.train.objective == "logit_kd":
        settings = job.train.logit_kd.model_copy(update={"teachers": job.teachers})
        dtype = torch.bfloat16 if job.bf16 else torch.float32
        return logit_kd.OnlineObjective(settings, model, tokenizer, PartialState().device, dtype)
    return text


def main(job_file: str) -> int:
    job = TrainJob.model_validate_json(Path(job_file).read_bytes())
    try:
        return 0 if train(job) else STOPPED
    except UserError as e:
        if PartialState().is_main_process:
            job.refusal.write_text(f"{e}\n", encoding="utf-8")
        print(f"error: {e}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: accelerate launch -m pipeline.train.trainer.launch JOB.json")
    sys.exit(main(sys.argv[1]))
