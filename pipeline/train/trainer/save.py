"""Writes the trained model for vLLM: weights, tokenizer, template, generation config; complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from pipeline import generations
from pipeline.engine.atomic_files import sync_files
from pipeline.train.job import TrainJob
from pipeline.train.trainer import quantized
from pipeline.train.trainer.loss_terms import PROJECTIONS
from pipeline.train.trainer.preflight import check_saved


def save(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], job: TrainJob
) -> None:
    """Writes the model to job.output and LoRA adapters to job.adapter. Every process has to call it.

    `messages`: a dialogue of the training. Raises UserError unless the saved tokenizer renders it as the
    training did. Weights have the dtype of the computation: bfloat16 after bf16, float32 after fp32, where
    rounding would lose part of what was learned (a fifth of the change, after 40 steps at 5e-5). A quantized
    student is written as the export that it was made from.
    """
    dtype = torch.bfloat16 if trainer.args.bf16 else torch.float32
    # From the wrapped model: only DeepSpeed's engine can gather the weights that it sharded.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, PROJECTIONS):  # of white-box terms: no part of the student
        delattr(model, PROJECTIONS)
        state = {name: w for name, w in state.items() if not name.startswith(f"{PROJECTIONS}.")}
    part = job.output.with_name(job.output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    if job.quantized:
        quantized.write(state, job.quantized, part)
        sync_files(part)
        part.rename(job.output)
        return
    if job.train.lora:
        model.save_pretrained(job.adapter, state_dict=state)
        model = _merged(job, model.get_base_model())
        state = model.state_dict()
    setattr(model.config, generations.MARK, job.generation)
    _write(model, state, dtype, part)
    tokenizer.save_pretrained(part)
    check_saved(part, tokenizer, messages)
    sync_files(part)
    part.rename(job.output)


def _merged(job: TrainJob, trained: Any) -> PreTrainedModel:
    """The base, loaded again without quantization or rounding, with the adapters merged into its weights."""
    from peft import PeftModel

    base: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    base.resize_token_embeddings(trained.get_input_embeddings().num_embeddings)
    base.generation_config = trained.generation_config
    for name in ("eos_token_id", "pad_token_id"):
        setattr(base.config.get_text_config(), name, getattr(trained.config.get_text_config(), name))
    merged: Any = PeftModel.from_pretrained(base, job.adapter).merge_and_unload()
    return merged


def _write(
    model: PreTrainedModel, state: Mapping[str, torch.Tensor], dtype: torch.dtype, folder: Path
) -> None:
    converted: dict[int, torch.Tensor] = {}  # keeps tied weights one tensor, which is saved once
    weights = {
        name: converted.setdefault(w.data_ptr(), w.to(dtype)) if w.is_floating_point() else w
        for name, w in state.items()
    }
    model.save_pretrained(folder, state_dict=weights)
    model.config.dtype = dtype  # save_pretrained() wrote the dtype of the weights in memory
    model.config.save_pretrained(folder)
