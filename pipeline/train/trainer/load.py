"""Loads the student: tokenizer, weights in the precision they are trained in, LoRA adapters."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipeline.config.train import Train
from pipeline.errors import user_error
from pipeline.train.job import TrainJob
from pipeline.train.trainer import quantized
from pipeline.train.trainer.attention import for_packing


def on_cpu() -> bool:
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def with_fsdp() -> bool:
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def tokenizer(job: TrainJob) -> PreTrainedTokenizerBase:
    """The student's tokenizer, unchanged. Raises UserError."""
    return tokenizer_of(job.model, "student.model")


def tokenizer_of(model: str, what: str = "model") -> PreTrainedTokenizerBase:
    """The tokenizer of a model, unchanged. Raises UserError."""
    with loading(f"{what} {model}"):
        return AutoTokenizer.from_pretrained(model)


def student(job: TrainJob) -> PreTrainedModel:
    """The student. Trained weights are float32; frozen ones have the dtype of the computation."""
    with loading(f"student.model {job.model}"):
        model = AutoModelForCausalLM.from_pretrained(job.model, **_options(job))
    if job.quantized:
        quantized.put_in(model, job.quantized)
    return model


def for_reading(model: str, dtype: torch.dtype, what: str = "model") -> PreTrainedModel:
    """A model in eval mode on the first accelerator, else the processor. Raises UserError."""
    with loading(f"{what} {model}"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return loaded.to(accelerator or torch.device("cpu")).eval()


def vocabulary(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of the student's logits, read from its config."""
    with loading(f"student.model {job.model}"):
        config = AutoConfig.from_pretrained(job.model)
    return max(int(config.get_text_config().vocab_size), len(tokenizer))


def loading(what: str) -> AbstractContextManager[None]:
    """Turns the errors of loading a model into a UserError."""
    return user_error(f"{what}: cannot be loaded", OSError, ValueError, ImportError)


def _options(job: TrainJob) -> dict[str, Any]:
    train = job.train
    options: dict[str, Any] = {"dtype": torch.float32}
    if train.attention or train.packing:
        options["attn_implementation"] = train.attention or for_packing()
    # FSDP shards parameters of one dtype together, so there the base has the adapters' float32.
    if train.lora and job.bf16 and not with_fsdp():
        options["dtype"] = torch.bfloat16
    if train.lora and train.lora.quantize:
        options |= _quantized(options["dtype"])
    return options


def _quantized(compute_dtype: torch.dtype) -> dict[str, Any]:
    """QLoRA's base: 4-bit NormalFloat, double quantization (Dettmers et al. 2023, arXiv 2305.14314, 3)."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def adapters(train: Train) -> Any:
    """The peft configuration of train.lora; None when all weights are trained."""
    if train.lora is None:
        return None
    from peft import LoraConfig

    lora = train.lora
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
