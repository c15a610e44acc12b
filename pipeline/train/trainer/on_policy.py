"""objective = "on_policy": the student answers, the teacher says of each token what it would have said.

TRL's DistillationTrainer does it (GKD, Agarwal et al. 2023, arXiv 2306.13649). In each step it
- samples one answer to each prompt from the student as it is now, with `generate`, at `temperature` and
  top-p 1, `max_tokens` at most; all answers of a step are sampled at once, before its first micro batch;
- runs student and teacher over prompt and answer, and takes, from each answer's first token to its end, the
  generalized Jensen-Shannon divergence of the two at `temperature`, without the factor T^2, in tiles of the
  vocabulary: with beta 0 the forward KL, 1 the reverse KL, between beta KL(p || m) + (1 - beta) KL(q || m);
- divides the sum by the answers' tokens in the step. No gradient goes through the sampling.
The examples' own answers, soft labels, weights and packing play no part; nor does order, which TRL shuffles.
Leaves out vLLM for the sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import DistillationConfig, DistillationTrainer

from pipeline.config.training import OnPolicy
from pipeline.errors import UserError
from pipeline.train.trainer import teachers, tokens


def trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: str,
    prompts: datasets.Dataset,
    arguments: dict[str, Any],
    settings: OnPolicy,
    callbacks: Sequence[TrainerCallback] = (),
    validation: datasets.Dataset | None = None,
    adapters: Any = None,
) -> DistillationTrainer:
    """The trainer of `model` on `prompts` (column "prompt": chat messages; others are not read).

    `arguments` are fields of TrainingArguments; they have to say bf16 and gradient_checkpointing, which TRL
    turns on where nothing is said. `adapters`: a peft configuration, None: all weights. The teacher is
    in bfloat16 where the training is. An answer ends where the template ends one. Raises UserError where
    teachers.load() does, and where student and teacher give different numbers of logits.
    """
    turn = [*prompts[0]["prompt"], {"role": "assistant", "content": "."}]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(tokens.end_of_turn(tokenizer, turn))
    try:
        args = DistillationConfig(
            **arguments,
            beta=settings.beta,
            temperature=settings.temperature,
            max_completion_length=settings.max_tokens,
        )
    except ValueError as e:
        raise UserError(f"train: {str(e).splitlines()[0]}") from e
    loaded = teachers.load(teacher, model, tokenizer, torch.bfloat16 if args.bf16 else torch.float32)
    if (theirs := teachers.vocabulary(loaded)) != (ours := teachers.vocabulary(model)):
        raise UserError(
            f"teacher {teacher}: it gives {theirs} logits and the student {ours}, whose tokens are the same: "
            'on_policy needs as many; train.objective = "logit_kd" does not'
        )
    return DistillationTrainer(
        model=model,
        teacher_model=loaded,
        args=args,
        train_dataset=prompts.select_columns("prompt"),
        eval_dataset=validation.select_columns("prompt") if validation is not None else None,
        processing_class=tokenizer,
        callbacks=list(callbacks),
        peft_config=adapters,
    )
