"""Supervised fine-tuning of the student with TRL: `accelerate launch -m pipeline.training.sft JOB.json`.

The loss is on the last message alone, the assistant's; weights and optimizer are kept in float32, matrix
products run in bfloat16 where the machine has them. Resumes from the newest whole checkpoint. Exit codes:
0 the model is there; 2 refused, in one line; 143 stopped by SIGTERM with a checkpoint saved.
Leaves out packing, adapters and every loss but cross-entropy.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # TRL reports each training; read when it is imported

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from trl import SFTConfig, SFTTrainer

from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.machine import computes_bf16
from pipeline.training import callbacks, tokens
from pipeline.training.job import TrainJob

STOPPED = 143  # exit code, as of a process that SIGTERM ended


class StudentTrainer(SFTTrainer):
    """TRL's trainer, with the model's own loss on CPUs.

    TRL's loss saves memory by working through the vocabulary in tiles, with kernels that CPUs lack; there it
    scores prompt and padding too, and multiplies in float32 whatever the precision.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.args.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return Trainer.compute_loss(
            self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch
        )


def train(job: TrainJob) -> bool:
    """Train and write the model; False when it was asked to stop. Raises UserError."""
    state = PartialState(cpu=_on_cpu())
    examples = _examples(job)
    tokenizer, model = _load(job.model)
    end = tokens.end_of_turn(
        tokenizer, [*examples["train"][0]["prompt"], *examples["train"][0]["completion"]]
    )
    tokens.set_padding(tokenizer, model, end)
    stop = callbacks.StopWhenAsked()
    trainer = StudentTrainer(
        model=model,
        args=_settings(job, examples, str(tokenizer.convert_ids_to_tokens(end)), state.num_processes),
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
        processing_class=tokenizer,
        callbacks=[callbacks.StepLog(job.log), callbacks.Checkpoints(), stop],
    )
    prepared: list[Any] = [trainer.train_dataset, trainer.eval_dataset]
    for rows in prepared:
        tokens.check(rows or (), tokenizer, end, job.train.max_length)
    checkpoint = callbacks.newest_checkpoint(job.checkpoints)
    print(f"training on {trainer.args.device}, bf16: {trainer.args.bf16}, from {checkpoint or 'the start'}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not stop.stopped:
        _save(trainer, tokenizer, job.output)
    return not stop.stopped


def _examples(job: TrainJob) -> datasets.DatasetDict:
    """The examples as TRL takes them, prompt and completion, by split; a split without any is not there."""
    datasets.disable_progress_bars()
    with PartialState().main_process_first():
        rows = datasets.Dataset.from_parquet([str(path) for path in job.examples], cache_dir=str(job.cache))
        rows = rows.map(_as_completion, remove_columns=["messages", "problem_id", "source", "teacher"])
        splits = {
            split: rows.filter(lambda of, split=split: of == split, input_columns="split")
            for split in ("train", "validation")
        }
    if not splits["train"]:
        raise UserError("there is no training example")
    return datasets.DatasetDict({name: rows for name, rows in splits.items() if len(rows)})


def _as_completion(example: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": example["messages"][:-1], "completion": example["messages"][-1:]}


def _load(model: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    except (OSError, ValueError) as e:
        raise UserError(f"student.model {model}: cannot be loaded: {str(e).strip().splitlines()[0]}") from e
    return tokenizer, loaded


def _settings(job: TrainJob, examples: Mapping[str, Sized], end_token: str, processes: int) -> SFTConfig:
    train = job.train
    try:
        return SFTConfig(
            output_dir=str(job.checkpoints),
            num_train_epochs=train.epochs,
            learning_rate=train.learning_rate,
            lr_scheduler_type=train.schedule,
            warmup_steps=min(train.warmup, 1 - 1e-9),  # below 1 it is a share of the steps
            per_device_train_batch_size=train.micro_batch_size,
            per_device_eval_batch_size=train.micro_batch_size,
            gradient_accumulation_steps=_accumulation(train, processes),
            gradient_checkpointing=train.gradient_checkpointing,
            bf16=computes_bf16() if train.precision == "auto" else train.precision == "bf16",
            use_cpu=_on_cpu(),
            max_length=None,  # TRL would cut; tokens.check refuses instead
            completion_only_loss=True,
            eos_token=end_token,
            # Not "epoch": that comes after the checkpoint, so a kill between the two would lose it.
            eval_strategy="steps" if "validation" in examples else "no",
            eval_steps=math.ceil(len(examples["train"]) / train.batch_size),
            save_strategy="steps",
            save_steps=train.save_steps,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,
            include_num_input_tokens_seen="non_padding",
            dataloader_pin_memory=not _on_cpu(),
            seed=job.seed,
            data_seed=job.seed,
            report_to="none",
            disable_tqdm=True,
        )
    except ValueError as e:
        raise UserError(f"train: {str(e).splitlines()[0]}") from e


def _accumulation(train: Train, processes: int) -> int:
    """How many micro batches a process puts into one step."""
    at_once = train.micro_batch_size * processes
    if train.batch_size % at_once:
        raise UserError(
            f"train.batch_size = {train.batch_size} is no multiple of micro_batch_size x processes = "
            f"{train.micro_batch_size} x {processes}"
        )
    return train.batch_size // at_once


def _on_cpu() -> bool:
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def _save(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Write what vLLM serves: weights, tokenizer, chat template, generation config. Then rename.

    The weights are as the training computed with them: in bfloat16 after bf16, in float32 after fp32, where
    rounding would lose part of what was learned (a fifth of the change, after 40 steps at 5e-5).
    """
    dtype = torch.bfloat16 if trainer.args.bf16 else torch.float32
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return
    part = output.with_name(output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    converted: dict[int, torch.Tensor] = {}  # tied weights stay tied: one tensor, so they are saved once
    weights = {
        name: converted.setdefault(w.data_ptr(), w.to(dtype)) if w.is_floating_point() else w
        for name, w in state.items()
    }
    model.save_pretrained(part, state_dict=weights)
    model.config.dtype = dtype  # save_pretrained() wrote that of the weights in memory
    model.config.save_pretrained(part)
    tokenizer.save_pretrained(part)
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    part.rename(output)


def main(job_file: str) -> int:
    job = TrainJob.model_validate_json(Path(job_file).read_bytes())
    try:
        return 0 if train(job) else STOPPED
    except UserError as e:
        if PartialState().is_main_process:
            job.refusal.write_text(f"{e}\n")
        print(f"error: {e}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: accelerate launch -m pipeline.training.sft JOB.json")
    sys.exit(main(sys.argv[1]))
