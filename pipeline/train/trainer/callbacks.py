"""Trainer callbacks: the step log, markers of complete checkpoints, a stop on SIGTERM."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.model_rows import Step
from pipeline.train.checkpoints import mark_complete
from pipeline.train.job import read_steps
from pipeline.train.objectives import TERMS

SPECIAL = "completions/special_ratio"  # a metric of our own among TRL's of the student's samples


class StepLog(TrainerCallback):
    """Appends a line for each step and each validation; ends a training whose loss is not finite."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._previous: tuple[float, float] | None = None  # time and tokens of the last step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.began = time.monotonic()
        if state.is_world_process_zero:
            self._rewind(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs: dict[str, Any] = kwargs["logs"]
        if "loss" not in logs and "eval_loss" not in logs:
            return  # the summary at the end
        step = Step(
            id=f"{state.global_step}-validation" if "eval_loss" in logs else str(state.global_step),
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch or 0,
            loss=logs.get("loss"),
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens=int(state.num_input_tokens_seen) or None,  # on_policy counts none
            seconds=round(time.monotonic() - self.began, 2),
            tokens_per_second=self._speed(state) if "loss" in logs else None,
            validation_loss=logs.get("eval_loss"),
            **{f"loss_{name}": logs.get(f"loss_{name}") for name in TERMS},
            sample_tokens=logs.get("completions/mean_length"),
            truncated=logs.get("completions/clipped_ratio"),
            special=logs.get(SPECIAL),
        )
        for value in (step.loss, step.grad_norm, step.validation_loss):
            if value is not None and not math.isfinite(value):
                raise UserError(f"step {step.step}: the loss is not finite: lower train.learning_rate")
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(step.model_dump_json() + "\n")

    def _speed(self, state: TrainerState) -> float | None:
        """Tokens per second since the last step; None for the first step of a process."""
        now, tokens = time.monotonic(), state.num_input_tokens_seen
        previous, self._previous = self._previous, (now, tokens)
        return round((tokens - previous[1]) / (now - previous[0]), 1) if previous else None

    def _rewind(self, step: int) -> None:
        """Removes the steps after the checkpoint that is resumed, since they run again."""
        kept = [s for s in read_steps(self.path) if s.step <= step]
        write_atomic(self.path, "".join(s.model_dump_json() + "\n" for s in kept).encode())


class MarkCheckpoints(TrainerCallback):
    """Marks a checkpoint as complete once every process has written its part."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero and args.output_dir:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class StopOnSigterm(TrainerCallback):
    """Ends the training after the current step, with a checkpoint; before the first step, at once."""

    def __init__(self) -> None:
        self.requested = self.stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: Any) -> None:
        self.requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._requested_anywhere(args.device):
            self.stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # validation would delay the checkpoint

    def _requested_anywhere(self, device: torch.device) -> bool:
        """The same answer in every process: if one stopped alone, the others would wait for it."""
        if PartialState().num_processes == 1:
            return self.requested
        return bool(reduce(torch.tensor(int(self.requested), device=device), "sum"))
