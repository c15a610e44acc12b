"""The student's own samples scored by the teacher, with TRL, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.config.train import KDTeacher
from pipeline.errors import UserError
from tests import tiny_student
from tests.serving import served

pytest.importorskip("trl")


def saved(folder: Path, tokenizer: Any = None, size: int = 259) -> str:
    model = tiny_student.model(1)
    model.resize_token_embeddings(size, mean_resizing=False)
    model.save_pretrained(folder)
    (tokenizer or tiny_student.tokenizer()).save_pretrained(folder)
    return str(folder)


def trainer_of(
    teacher: str, folder: Path, steps: int = 4, beta: float = 1, url: str = "", **arguments: Any
) -> Any:
    import datasets

    from pipeline.train.trainer import on_policy, special_tokens
    from pipeline.train.trainer.trainer import Setup

    prompts = [{"prompt": [{"role": "user", "content": f"{n} + 1?"}], "id": str(n)} for n in range(16)]
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    }
    job = tiny_student.job(folder, on_policy={"beta": beta, "max_tokens": 8})
    remote = Endpoint(model="fake", base_url=url) if url else None
    job = job.model_copy(update={"teachers": (KDTeacher(model=teacher),), "remote_teacher": remote})
    rows = {"train": datasets.Dataset.from_list(prompts)}
    model, tokenizer = tiny_student.model(), tiny_student.tokenizer(pad_token="<|endoftext|>")
    end = special_tokens.end_of_turn(
        tokenizer, [*prompts[0]["prompt"], {"role": "assistant", "content": "."}]
    )
    return on_policy.build(Setup(job, rows, model, tokenizer, end, given | arguments))


@pytest.mark.alone
@pytest.mark.parametrize(("beta", "bf16"), [(0, False), (1, True)])
def test_training_brings_the_student_closer_to_its_teacher(tmp_path: Path, beta: float, bf16: bool) -> None:
    trainer = trainer_of(
        saved(tmp_path / "teacher"), tmp_path / "out", 30, beta, bf16=bf16, learning_rate=3e-3
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert not trainer.teacher_model.training


@pytest.mark.alone
@pytest.mark.parametrize("beta", [0, 1])
def test_a_teacher_behind_a_url_teaches_as_well(tmp_path: Path, beta: float) -> None:
    import torch

    teacher = tiny_student.model(1).eval()
    teacher.lm_head.weight.data *= 10  # random weights are near the uniform distribution

    async def read(http: web.Request) -> web.Response:
        """Answers as vLLM does, with all tokens of the vocabulary."""
        asked = await http.json()
        with torch.no_grad():
            values = teacher(torch.tensor([asked["prompt"]])).logits[0].log_softmax(-1)[:-1].tolist()
        entries = [{str(n): {"logprob": value} for n, value in enumerate(row)} for row in values]
        choice = {"text": " ", "finish_reason": "length", "prompt_logprobs": [None, *entries]}
        return web.json_response({"choices": [choice], "usage": None})

    with served(read) as url:
        trainer = trainer_of("", tmp_path / "out", 40, beta, url, learning_rate=3e-3)
        before = distance(trainer, teacher)
        trainer.train()
    assert distance(trainer, teacher) < 0.8 * before
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert all(0 <= line["completions/clipped_ratio"] <= 1 for line in logged)
    assert all(0 <= line["completions/special_ratio"] <= 1 for line in logged)


def distance(trainer: Any, teacher: Any) -> float:
    """The mean KL(student || teacher) of the first token of an answer."""
    import torch

    tokens = [trainer._tokenize_prompts([row["prompt"]])[0][0] for row in trainer.train_dataset]
    with torch.no_grad():
        log_q, log_p = (
            torch.stack([model.eval()(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in tokens])
            for model in (trainer.model, teacher)
        )
    return float((log_q.exp() * (log_q - log_p)).sum(-1).mean())


@pytest.mark.alone
@pytest.mark.parametrize(("steps", "cut"), [(4, 2), (6, 5)])  # an epoch has 4 steps
def test_resuming_from_a_checkpoint_gives_the_same_weights(tmp_path: Path, steps: int, cut: int) -> None:
    import torch

    teacher = saved(tmp_path / "teacher")
    whole = trainer_of(teacher, tmp_path / "whole", steps)
    whole.train()
    trainer_of(teacher, tmp_path / "interrupted", cut, save_steps=1).train()
    resumed = trainer_of(teacher, tmp_path / "interrupted", steps)
    resumed.train(resume_from_checkpoint=str(tmp_path / "interrupted" / f"checkpoint-{cut}"))
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight)


def test_a_sample_ends_with_the_chat_template_s_end_of_turn(tmp_path: Path) -> None:
    other_end = tiny_student.tokenizer(eos_token="<|endoftext|>")
    trainer = trainer_of(saved(tmp_path / "teacher", other_end), tmp_path / "out")
    assert trainer.generation_config.eos_token_id == [2]


@pytest.mark.parametrize(("micro", "steps"), [(3, 3), (16, 1)])  # 16 prompts, in two micro batches a step
def test_every_prompt_is_sampled_in_each_epoch(tmp_path: Path, micro: int, steps: int) -> None:
    trainer = trainer_of(saved(tmp_path / "teacher"), tmp_path / "out", per_device_train_batch_size=micro)
    sampled = list(trainer._get_train_sampler())
    assert {n % 16 for n in sampled} == set(range(16))
    assert len(sampled) == 2 * 2 * micro * steps  # TRL repeats a step's prompts for each micro batch


def test_another_vocabulary_is_rejected(tmp_path: Path) -> None:
    other = tiny_student.tokenizer()
    other.add_tokens(["<extra>"])
    with pytest.raises(UserError, match="1 tokens differ, among them '<extra>'"):
        trainer_of(saved(tmp_path / "teacher", other, 260), tmp_path / "out")


def test_another_number_of_logits_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has 320 logits and the student 259"):
        trainer_of(saved(tmp_path / "teacher", size=320), tmp_path / "out")


def test_settings_that_transformers_rejects_are_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train: "):
        trainer_of(saved(tmp_path / "teacher"), tmp_path / "out", save_strategy="sometimes")
