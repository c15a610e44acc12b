"""objective = "on_policy": the student samples answers, the teacher scores each of their tokens.

TRL's DistillationTrainer implements it (GKD, Agarwal et al. 2023, arXiv 2306.13649). Each step
- samples one answer to each prompt from the current student at `temperature`, top-p 1 and up to `max_tokens`,
  by transformers or by vLLM, whose weights TRL updates before; all answers of a step are sampled before its
  first micro batch;
- runs student and teacher over prompt and answer, and computes, for the answer's tokens, the generalized
  Jensen-Shannon divergence of the two at `temperature`, without the factor T^2, in tiles of the vocabulary:
  beta = 0 is the forward KL, 1 the reverse KL, in between beta KL(p || m) + (1 - beta) KL(q || m);
- divides the sum by the number of the answers' tokens in the step. Sampling gets no gradient.
A teacher behind a URL is asked how it reads the answers; remote_teacher.py has its loss. The examples' own
answers, soft labels, weights, packing and order have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import torch
from torch.utils.data import Sampler
from trl import DistillationConfig, DistillationTrainer

from pipeline.errors import user_error
from pipeline.train.trainer import heads, load, teachers
from pipeline.train.trainer.callbacks import SPECIAL
from pipeline.train.trainer.remote_teacher import RemoteTeacher
from pipeline.train.trainer.tiles import tiled
from pipeline.train.trainer.trainer import Setup


def build(setup: Setup) -> DistillationTrainer:
    """The trainer on the examples' prompts.

    `setup.arguments` must set bf16 and gradient_checkpointing, which TRL turns on by default. The teacher is
    in bfloat16 where the training is. An answer ends with the chat template's end of turn. Raises UserError
    as teachers.load() and placed() do, and where student and teacher have different numbers of logits.
    """
    model, tokenizer, job = setup.model, setup.tokenizer, setup.job
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(setup.end)
    with user_error("train", ValueError):
        args = _arguments(setup)
    prompts = {split: rows.select_columns("prompt") for split, rows in setup.splits.items()}
    step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    settings: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": whole_steps(prompts["train"], step),
        "eval_dataset": prompts.get("validation"),
        "processing_class": tokenizer,
        "callbacks": list(setup.callbacks),
        "peft_config": load.adapters(job.train),
    }
    if job.remote_teacher is not None:
        remote = RemoteTeacher(job.remote_teacher, job.train.on_policy, job.output.parent)
        return OnPolicyTrainer(remote=remote, **settings)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    teacher = teachers.load(job.teachers[0].model, model, tokenizer, dtype, equal_logits=True)
    trainer = OnPolicyTrainer(teacher_model=teacher, **settings)
    # TRL leaves it whole on every device under FSDP2, and there only the first process has its weights.
    trainer.teacher_model = teachers.placed(teacher, trainer.accelerator)
    return trainer


class OnPolicyTrainer(DistillationTrainer):
    """TRL's trainer, which also takes a teacher behind a URL, and counts samples with special tokens."""

    def __init__(self, *, remote: RemoteTeacher | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._remote = remote
        tokenizer: Any = self.processing_class
        self._special = set(tokenizer.all_special_ids) - {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return PromptSampler(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    def _generate(self, prompts: list[Any]) -> Any:
        student: Any = self.model
        made = super()._generate(prompts)
        holds = [float(not self._special.isdisjoint(ids)) for ids in made[1]]
        share = self.accelerator.gather(torch.tensor(holds, device=self.accelerator.device)).mean()
        self._metrics["train" if student.training else "eval"][SPECIAL].append(share.item())
        return made

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return made if self._remote is None else made | self._remote.read(made, self.processing_class)

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        if self._remote is None:
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        answers, mask = inputs["completion_ids"], inputs["completion_mask"].bool()
        ids = torch.cat([inputs["prompt_ids"], answers], 1)
        seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        hidden = self._get_last_hidden_state(unwrapped_student, ids, seen, answers.shape[1])
        peft = hasattr(unwrapped_student, "get_base_model")
        head = heads.head_of(unwrapped_student.get_base_model() if peft else unwrapped_student)
        columns = (inputs[name][mask] for name in self._remote.columns)
        with head.whole():
            values = tiled(self._remote.loss, hidden[mask], head, answers[mask], *columns)
        tokens = mask.sum()
        total = tokens.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return values.sum() / total, torch.full((), torch.nan), tokens  # the entropy is not measured


class PromptSampler(Sampler[int]):
    """TRL's sampler, with an order that follows from seed and epoch, also in a resumed training."""

    def __init__(self, inner: Any, epoch: Callable[[], int]) -> None:
        self._inner, self._epoch = inner, epoch

    def __iter__(self) -> Iterator[int]:
        self._inner.generator.manual_seed(self._inner.seed + self._epoch())
        yield from self._inner

    def __len__(self) -> int:
        return len(self._inner)


def whole_steps(prompts: datasets.Dataset, step: int) -> datasets.Dataset:
    """The prompts, the first ones again where the last step is not full: TRL would leave that step out."""
    return prompts.select([n % len(prompts) for n in range(len(prompts) + -len(prompts) % step)])


def _arguments(setup: Setup) -> DistillationConfig:
    settings = setup.job.train.on_policy
    options: dict[str, Any] = {}
    if settings.sampler == "vllm":
        options = {
            "use_vllm": True,
            "vllm_mode": "server" if settings.sampler_url else "colocate",
            "vllm_server_base_url": settings.sampler_url,
            "vllm_gpu_memory_utilization": settings.sampler_memory,
            "vllm_max_model_length": setup.job.train.max_length + settings.max_tokens,
            "generation_kwargs": {"stop_token_ids": [setup.end]},  # vLLM knows the model's own end alone
        }
    return DistillationConfig(
        **setup.arguments,
        **options,
        beta=settings.beta,
        temperature=settings.temperature,
        max_completion_length=settings.max_tokens,
    )
