"""Loads the student: tokenizer, weights in the precision they are trained in, adapters where asked for."""

from __future__ import annotations

import os
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

from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.train.job import TrainJob
from pipeline.train.trainer.attention import for_packing


def on_cpu() -> bool:
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def with_fsdp() -> bool:
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def tokenizer(job: TrainJob) -> PreTrainedTokenizerBase:
    """The student's, as it comes. Raises UserError."""
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(job.model)
    except (OSError, ValueError, ImportError) as e:
        raise _refused(job, e) from e
    return loaded


def student(job: TrainJob) -> PreTrainedModel:
    """The model. Trained weights are float32; those under adapters as they are computed with."""
    try:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(job.model, **_how(job))
    except (OSError, ValueError, ImportError) as e:
        raise _refused(job, e) from e
    return loaded


def vocabulary(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many logits the student will give, asked without loading it."""
    try:
        config = AutoConfig.from_pretrained(job.model)
    except (OSError, ValueError) as e:
        raise _refused(job, e) from e
    return max(int(config.get_text_config().vocab_size), len(tokenizer))


def _refused(job: TrainJob, error: Exception) -> UserError:
    return UserError(f"student.model {job.model}: cannot be loaded: {str(error).strip().splitlines()[0]}")


def _how(job: TrainJob) -> dict[str, Any]:
    train = job.train
    how: dict[str, Any] = {"dtype": torch.float32}
    if train.attention or train.packing:
        how["attn_implementation"] = train.attention or for_packing()
    # FSDP shards parameters of one type together, so there the base stays in the adapters' float32.
    if train.lora and job.bf16 and not with_fsdp():
        how["dtype"] = torch.bfloat16
    if train.lora and train.lora.quantize:
        how |= _quantized(how["dtype"])
    return how


def _quantized(computed: torch.dtype) -> dict[str, Any]:
    """QLoRA's base: 4-bit NormalFloat, quantised twice (Dettmers et al. 2023, arXiv 2305.14314, 3)."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
    )
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def adapters(train: Train) -> Any:
    """The peft configuration that the recipe asks for; None when all weights are trained."""
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
