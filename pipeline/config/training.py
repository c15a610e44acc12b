"""[train]: how the student learns from the examples."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.config.base import Scalar, Share, Table

Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]

# As transformers names them; adamw_8bit and paged_adamw_8bit are bitsandbytes' (Dettmers et al. 2022).
Optimizer = Literal["adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"]


class Lora(Table):
    """Low-rank adapters are trained instead of all weights (Hu et al. 2021), then merged into the student."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    targets: str | tuple[str, ...] = "all-linear"  # names of modules, as peft takes them
    quantize: Literal["nf4"] | None = None  # QLoRA (Dettmers et al. 2023): the base in 4 bits; needs a GPU


class TopkKD(Table):
    """objective = "topk_kd": the teacher's stored log-probabilities as soft labels (Hinton et al. 2015)."""

    alpha: Share = 0.5  # of the divergence; the rest is cross-entropy on the teacher's text
    temperature: Annotated[float, Field(gt=0)] = 1


class KDTeacher(Table):
    model: str  # as teacher.model; its vocabulary has to be the student's
    weight: Annotated[float, Field(gt=0)] = 1


class LogitKD(Table):
    """objective = "logit_kd": teachers' whole distributions, computed beside the student."""

    divergence: Literal["forward_kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "jsd"] = "forward_kl"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the mixture in the skew ones and jsd
    alpha: Share = 1  # of the divergence; the rest is cross-entropy on the teacher's text
    temperature: Annotated[float, Field(gt=0)] = 1
    teachers: tuple[KDTeacher, ...] = ()  # default: those of the recipe, alike in weight


class OnPolicy(Table):
    """objective = "on_policy": the student's own answers, scored by the teacher (Agarwal et al. 2023)."""

    teacher: str | None = None  # default: the recipe's teacher
    beta: Share = 1  # 0: forward KL, 1: reverse KL, between: generalized Jensen-Shannon
    temperature: Annotated[float, Field(gt=0)] = 1  # of sampling and of the divergence
    max_tokens: Annotated[int, Field(ge=1)] = 512  # of an answer that the student samples


class Train(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset(
        {
            "save_steps",
            "accelerate",
            "micro_batch_size",
            "packing",
            "attention",
            "gradient_checkpointing",
            "trackers",
        }
    )
    objective: Literal["sft", "topk_kd", "logit_kd", "on_policy"] = "sft"
    topk_kd: TopkKD = TopkKD()
    logit_kd: LogitKD = LogitKD()
    on_policy: OnPolicy = OnPolicy()
    lora: Lora | None = None  # None: all weights are trained
    epochs: Annotated[float, Field(gt=0)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    schedule: Schedule = "cosine"  # of the learning rate, as transformers names them
    warmup: Share = 0.05  # share of the steps
    optimizer: Optimizer = "adamw_torch_fused"  # the others take less memory, and learn otherwise
    weight_decay: Annotated[float, Field(ge=0)] = 0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1
    order: Literal["shuffled", "easy_first", "short_first"] = "shuffled"  # easy: by the problem's pass rate
    weight_by: Literal["confidence"] | None = None  # examples count as the teacher was sure of them
    batch_size: Annotated[int, Field(ge=1)] = 16  # examples a step, over all devices
    micro_batch_size: Annotated[int, Field(ge=1)] = 16  # examples at once on one device
    packing: bool = False  # those of a micro batch end to end instead of padded; no step learns otherwise
    attention: str | None = None  # as transformers names it; None: PyTorch's own, which needs nothing
    max_length: Annotated[int, Field(ge=16)] = 4096  # tokens; no example is ever cut
    max_overlong_fraction: Share = (
        0  # share of the examples that may be longer, and are left out; more: refused
    )
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the processor computes in it
    gradient_checkpointing: bool = False
    save_steps: Annotated[int, Field(ge=1)] = 50
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()  # beside the run's own log
    accelerate: dict[str, Scalar] = {}  # arguments of `accelerate launch`, e.g. { num_processes = 8 }
