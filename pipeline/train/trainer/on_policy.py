"""objective = "on_policy": the student samples answers, the teacher scores each of their tokens.

TRL's DistillationTrainer implements it (GKD, Agarwal et al. 2023, arXiv 2306.13649). Each step
- samples one answer to each prompt from the current student, with `generate`, at `temperature`, top-p 1 and
  up to `max_tokens`; all answers of a step are sampled before its first micro batch;
- runs student and teacher over prompt and answer, and computes, for the answer's tokens, the generalized
  Jensen-Shannon divergence of the two at `temperature`, without the factor T^2, in tiles of the vocabulary:
  beta = 0 is the forward KL, 1 the reverse KL, in between beta KL(p || m) + (1 - beta) KL(q || m);
- divides the sum by the number of the answers' tokens in the step. Sampling gets no gradient.
The examples' own answers, top-k labels, weights, packing and order have no effect. Leaves out sampling with
vLLM.
"""

from __future__ import annotations

import torch
from trl import DistillationConfig, DistillationTrainer

from pipeline.errors import UserError, user_error
from pipeline.train.trainer import load, teachers
from pipeline.train.trainer.trainer import Setup


def build(setup: Setup) -> DistillationTrainer:
    """The trainer on the examples' prompts.

    `setup.arguments` must set bf16 and gradient_checkpointing, which TRL turns on by default. The teacher is
    in bfloat16 where the training is. An answer ends with the chat template's end of turn. Raises UserError
    as teachers.load() and placed() do, and where student and teacher have different numbers of logits.
    """
    model, tokenizer, settings = setup.model, setup.tokenizer, setup.job.train.on_policy
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(setup.end)
    with user_error("train", ValueError):
        args = DistillationConfig(
            **setup.arguments,
            beta=settings.beta,
            temperature=settings.temperature,
            max_completion_length=settings.max_tokens,
        )
    name = setup.job.teachers[0].model
    teacher = teachers.load(name, model, tokenizer, torch.bfloat16 if args.bf16 else torch.float32)
    if (theirs := teachers.vocabulary(teacher)) != (ours := teachers.vocabulary(model)):
        raise UserError(
            f"teacher {name}: it has {theirs} logits and the student {ours}, for the same tokens: "
            'on_policy needs equal numbers; train.objective = "logit_kd" does not'
        )
    prompts = {split: rows.select_columns("prompt") for split, rows in setup.splits.items()}
    trainer = DistillationTrainer(
        model=model,
        teacher_model=teacher,
        args=args,
        train_dataset=prompts["train"],
        eval_dataset=prompts.get("validation"),
        processing_class=tokenizer,
        callbacks=list(setup.callbacks),
        peft_config=load.adapters(setup.job.train),
    )
    # TRL leaves it whole on every device under FSDP2, and there only the first process has its weights.
    trainer.teacher_model = teachers.placed(teacher, trainer.accelerator)
    return trainer
