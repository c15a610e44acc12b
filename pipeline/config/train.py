"""[train]: how the student learns from the examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipeline.config.base import Fraction, NotIdentity, RecipeTable, Scalar
from pipeline.config.endpoints import Endpoint

Mixture = Annotated[float, Field(gt=0, lt=1)]
Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]
Optimizer = Literal["adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"]


class Lora(RecipeTable):
    """Trains low-rank adapters (Hu et al. 2021) in place of all weights, and merges them into the student."""

    rank: PositiveInt = 16
    """Rank of the adapters. A higher rank learns more and takes more memory."""
    alpha: PositiveInt = 32
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    """Dropout probability on the adapters' input."""
    targets: str | tuple[str, ...] = "all-linear"
    """Modules that get adapters, as peft names them. Default: every linear layer but the output layer."""
    quantize: Literal["nf4"] | None = None
    """Set to "nf4" to hold the frozen base weights in 4 bits (QLoRA, Dettmers et al. 2023); needs a GPU."""


class TopkKD(RecipeTable):
    """Settings of `objective = "topk_kd"`: the teacher's likeliest tokens (Hinton et al. 2015).

    Before the training the teacher reads each selected example once, by the `prompt_logprobs` of vLLM."""

    alpha: Fraction = 0.5
    """Weight of the divergence; the rest is the weight of the cross-entropy on the teacher's text."""
    temperature: PositiveFloat = 1
    """Temperature that softens both distributions before they are compared."""
    top_k: PositiveInt = 20
    """Tokens at each position whose log-probabilities are stored; all others count as one more."""
    prompt: Literal["student", "teacher"] = "student"
    """The prompt before the answer that the teacher reads: that of the example, as the student is trained, or
    that of `generate.prompt`, with its worked examples. Both are rendered by the student's chat template."""
    teacher: Endpoint | None = None
    """The model that reads, with the settings of a [teacher]. It needs the student's tokenizer. Default: the
    recipe's teacher."""


class KDTeacher(RecipeTable):
    """One of several teachers for `objective = "logit_kd"`."""

    model: str
    """The teacher, written as `teacher.model`. Its vocabulary must be the student's."""
    weight: PositiveFloat = 1
    """Weight of this teacher's divergence, relative to the other teachers' weights."""


class LogitKD(RecipeTable):
    """Settings of `objective = "logit_kd"`: full distributions of teachers that run next to the student."""

    divergence: Literal["forward_kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "jsd"] = "forward_kl"
    """Divergence between teacher and student. Forward KL covers all modes of the teacher, reverse KL seeks
    one; the others compare with a mixture of both."""
    beta: Mixture = 0.1
    """Weight of the teacher in the mixture, for skew_kl and jsd; of the student, for skew_reverse_kl."""
    alpha: Fraction = 1
    """Weight of the divergence; the rest is the weight of the cross-entropy on the teacher's text."""
    temperature: PositiveFloat = 1
    """Temperature that softens both distributions before they are compared."""
    teachers: tuple[KDTeacher, ...] = ()
    """The teachers, each a table [[train.logit_kd.teachers]]. Default: those of the recipe with equal
    weights."""


class OnPolicy(RecipeTable):
    """Settings of `objective = "on_policy"`: the student's own samples, scored by a teacher (Agarwal et al.
    2023)."""

    teacher: str | Endpoint | None = None
    """The teacher that is loaded next to the student, written as `teacher.model`; or a table with `base_url`
    of a server that reads the samples, by the `prompt_logprobs` of vLLM. Default: the recipe's teacher."""
    beta: Fraction = 1
    """Divergence: 0 is the forward KL, 1 the reverse KL, between them the generalized Jensen-Shannon. With a
    teacher behind a URL it is 0 or 1."""
    top_k: PositiveInt = 20
    """With a teacher behind a URL and `beta = 0`: tokens at each position that are compared; all others count
    as one more."""
    sampler: Literal["transformers", "vllm"] = "transformers"
    """What samples from the student. vLLM is much faster; it needs a GPU, and gets the student's new weights
    at each step."""
    sampler_url: NotIdentity[str | None] = None
    """With `sampler = "vllm"`: URL of a server on other GPUs, started by `trl vllm-serve --model STUDENT`.
    Default: an engine in each training process."""
    sampler_memory: NotIdentity[Fraction] = 0.3
    """Share of a GPU's memory for the engine in a training process."""
    temperature: PositiveFloat = 1
    """Temperature of the student's sampling and of the divergence."""
    max_tokens: PositiveInt = 512
    """Maximum tokens of a response that the student samples. Longer ones cost more time and memory."""


LayerPairs = tuple[tuple[PositiveInt, PositiveInt], ...]


class Features(RecipeTable):
    """Adds a loss on hidden states to the objective (FitNets, Romero et al. 2015; PKD, Sun et al. 2019)."""

    weight: PositiveFloat = 1
    """Weight of the term; that of the objective is 1."""
    loss: Literal["mse", "cosine"] = "cosine"
    """Distance of the hidden states of a token: the mean squared error, whose size is that of the states, or
    1 - cosine, which is between 0 and 2."""
    layers: LayerPairs = ()
    """Pairs of a layer of the student and one of the teacher, counted from 1, such as [[6, 12], [12, 24]].
    Default: all layers of the student, evenly mapped."""


class AttentionTransfer(RecipeTable):
    """Adds a loss on attention to the objective (Zagoruyko and Komodakis 2017; MiniLM, Wang et al. 2020)."""

    weight: PositiveFloat = 1
    """Weight of the term; that of the objective is 1."""
    loss: Literal["kl", "l2", "minilm"] = "minilm"
    """Compares attention maps after the mean over heads, by KL or by the squared distance of normalized rows;
    or, as MiniLM, the relations of queries with keys and of values with values, by relation head."""
    layers: LayerPairs = ()
    """Pairs of a layer of the student and one of the teacher, counted from 1. Default: the last of each."""
    relation_heads: PositiveInt | None = None
    """Number of heads into which queries, keys and values of both models are regrouped for "minilm". It must
    divide their widths. Default: the largest that does, up to the student's number of heads."""


class Relations(RecipeTable):
    """Adds a loss on how the examples of a batch relate to each other (RKD, Park et al. 2019; Tung and Mori
    2019). An example is the mean of its hidden states at tokens with loss; a batch is one micro batch, of all
    devices together."""

    weight: PositiveFloat = 1
    """Weight of the term; that of the objective is 1."""
    loss: Literal["distance", "angle", "similarity"] = "distance"
    """What is kept: distances of pairs, angles of triples, or the matrix of inner products."""
    layers: LayerPairs = ()
    """Pairs of a layer of the student and one of the teacher, counted from 1. Default: the last of each."""


class Redi(RecipeTable):
    """Settings of `objective = "redi"`: learning from rejected traces too (Xu et al. 2025)."""

    alpha: Fraction = 0.8
    """Weight of the rejected traces. At 1 trainings may collapse; with 0 only kept traces count."""


class Dpo(RecipeTable):
    """Settings of `objective = "dpo"`: preferring kept to rejected traces (Rafailov et al. 2023)."""

    beta: PositiveFloat = 0.1
    """How strongly the student is held near the model before this training; for "ipo" it is tau."""
    loss: Literal["sigmoid", "sigmoid_norm", "ipo"] = "sigmoid"
    """DPO's own loss, the same with log-ratios divided by their lengths, or that of IPO."""
    sft_weight: NonNegativeFloat = 0
    """Weight of the cross-entropy on the kept trace that is added."""


class Train(RecipeTable):
    objective: Literal["sft", "topk_kd", "logit_kd", "on_policy", "redi", "dpo"] = "sft"
    """What is minimized: cross-entropy on the kept traces (sft), or the divergence from the teacher's stored
    top-k log-probabilities, from its full distributions, or on the student's own samples. "redi" and "dpo"
    learn from pairs of a kept and a rejected trace (`select.rejected`)."""
    topk_kd: TopkKD = TopkKD()
    """Settings of `objective = "topk_kd"`."""
    logit_kd: LogitKD = LogitKD()
    """Settings of `objective = "logit_kd"`."""
    on_policy: OnPolicy = OnPolicy()
    """Settings of `objective = "on_policy"`."""
    features: Features | None = None
    """Also learn the teacher's hidden states. Default: off; an empty table [train.features] turns it on."""
    attention_transfer: AttentionTransfer | None = None
    """Also learn the teacher's attention. Default: off; an empty table turns it on."""
    relations: Relations | None = None
    """Also learn how the teacher relates examples. Default: off; an empty table turns it on."""
    term_teacher: str | None = None
    """The teacher of the three terms above, written as `teacher.model`, with the student's vocabulary.
    Default: the recipe's teacher. With `objective = "logit_kd"` the first of that objective's teachers."""
    redi: Redi = Redi()
    """Settings of `objective = "redi"`."""
    dpo: Dpo = Dpo()
    """Settings of `objective = "dpo"`."""
    lora: Lora | None = None
    """Train adapters only. Default: off, all weights are trained; an empty table [train.lora] turns it on."""
    epochs: PositiveFloat = 3
    """Passes over the examples; it may be a fraction."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate. With LoRA 1e-4 to 2e-4 is usual."""
    schedule: Schedule = "cosine"
    """Learning-rate schedule after the warmup, as transformers names it."""
    warmup: Fraction = 0.05
    """Fraction of the steps over which the learning rate rises from 0 to its peak."""
    optimizer: Optimizer = "adamw_torch_fused"
    """Optimizer, as transformers names it. The other three take less memory and give other results; the 8-bit
    ones are bitsandbytes' (Dettmers et al. 2022) and need a GPU."""
    weight_decay: NonNegativeFloat = 0
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1
    """Maximum norm of the gradient; a longer one is scaled down to it."""
    order: Literal["shuffled", "easy_first", "short_first"] = "shuffled"
    """Order of the examples. Easy means that many of the problem's samples are correct."""
    weight_by: Literal["confidence"] | None = None
    """Set to "confidence" to weight examples by the teacher's geometric-mean token probability. Needs
    `generate.logprobs`."""
    max_generation: NotIdentity[PositiveInt] = 3
    """Deepest generation that the student may have: 1 learns from original models, 2 from their students, and
    so on. A deeper one is refused before sampling and training."""
    seed: int | None = None
    """Seed of the training alone, to repeat it on the same examples. Default: the recipe's `seed`."""
    batch_size: PositiveInt = 16
    """Examples per optimizer step, over all devices."""
    micro_batch_size: NotIdentity[PositiveInt] = 16
    """Examples per device in one forward pass. Lower it if memory runs out; gradients are accumulated."""
    packing: NotIdentity[bool] = False
    """Put the examples of a micro batch end to end, without padding. Faster, with the same result."""
    attention: NotIdentity[str | None] = None
    """Attention implementation, as transformers names it. Default: PyTorch's own."""
    max_length: Annotated[int, Field(ge=16)] = 4096
    """Maximum tokens of an example. Examples are never truncated; see `max_overlong_fraction`."""
    max_overlong_fraction: Fraction = 0
    """Fraction of the examples that may be left out because they exceed `max_length`. Above it, training
    stops."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computation; auto takes bf16 where the hardware computes in it."""
    gradient_checkpointing: NotIdentity[bool] = False
    """Recompute activations in the backward pass: much less memory, lower speed."""
    save_steps: NotIdentity[PositiveInt] = 50
    """Steps between checkpoints. A killed training loses at most this many steps."""
    trackers: NotIdentity[tuple[Literal["tensorboard", "trackio", "wandb"], ...]] = ()
    """Experiment trackers to report to, in addition to the run's own log."""
    trl: dict[str, Any] = {}
    """More arguments for TRL's SFTConfig (DPOConfig for "dpo", DistillationConfig for "on_policy"), such as
    { neftune_noise_alpha = 5 }. Those that retort sets are refused, but for `optim` and `lr_scheduler_type`,
    which take the place of `optimizer` and `schedule`."""
    accelerate: NotIdentity[dict[str, Scalar]] = {}
    """Arguments of `accelerate launch`, such as { num_processes = 8 }. Default: one process."""

    @property
    def used_optimizer(self) -> str:
        """The optimizer, which an argument for TRL may replace."""
        return str(self.trl.get("optim", self.optimizer))
