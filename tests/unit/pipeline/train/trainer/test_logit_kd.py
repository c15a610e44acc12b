"""Teachers next to the student: frozen, with its vocabulary, compared at its tokens with loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.train import KDTeacher, LogitKD
from pipeline.errors import UserError
from tests import tiny_student

pytest.importorskip("trl")


def saved(folder: Path, seed: int, tokenizer: Any = None, size: int = 259) -> KDTeacher:
    model = tiny_student.model(seed)
    if size != 259:
        model.resize_token_embeddings(size, mean_resizing=False)
    model.save_pretrained(folder)
    (tokenizer or tiny_student.tokenizer()).save_pretrained(folder)
    return KDTeacher(model=str(folder), weight=seed)


def objective_of(teachers: list[KDTeacher], **settings: Any) -> Any:
    from pipeline.train.trainer.logit_kd import LogitKDObjective

    return LogitKDObjective(LogitKD(teachers=tuple(teachers), **settings))


def loaded(teacher: KDTeacher, student: Any = None, tokenizer: Any = None) -> Any:
    import torch

    from pipeline.train.trainer.teachers import Teacher, load

    tokenizer = tokenizer or tiny_student.tokenizer()
    return Teacher(load(teacher.model, student or tiny_student.model(), tokenizer, torch.float32))


TEXTS = [[5, 6, 7, 8, 9, 10], [20, 21, 22, 23]]
PROMPT = 2  # tokens of each that have no loss


def batch(packed: bool) -> tuple[dict[str, Any], Any, Any]:
    """inputs, targets (N,), and rows (B, L), the positions that predict them, of TEXTS."""
    import torch

    if packed:
        ids = torch.tensor([TEXTS[0] + TEXTS[1]])
        positions = torch.tensor([[*range(len(TEXTS[0])), *range(len(TEXTS[1]))]])
        inputs = {"input_ids": ids, "position_ids": positions}
        learned = positions >= PROMPT
    else:
        length = max(map(len, TEXTS))
        ids = torch.tensor([text + [0] * (length - len(text)) for text in TEXTS])
        there = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in TEXTS])
        inputs = {"input_ids": ids, "attention_mask": there}
        learned = there.bool() & (torch.arange(length) >= PROMPT)
    return inputs, ids[learned], torch.nn.functional.pad(learned[:, 1:], (0, 1))


def loss(objective: Any, student: Any, packed: bool, beside: list[Any] | None = None, **changed: Any) -> Any:
    from pipeline.train.trainer.heads import head_of
    from pipeline.train.trainer.trainer import SupervisedTokens, TeacherTokens

    inputs, targets, rows = batch(packed)
    inputs |= changed
    if beside is None:
        beside = [loaded(teacher, student) for teacher in objective.settings.teachers]
    hidden = student.base_model(**inputs, use_cache=False).last_hidden_state[rows]
    views = [TeacherTokens(teacher.hidden(inputs, rows), teacher.head) for teacher in beside]
    return objective(SupervisedTokens(hidden, head_of(student), targets, views, {}))


def alone(model: Any) -> Any:
    """The logits of a model that predict the tokens with loss, computed one text at a time."""
    import torch

    return torch.cat([model(torch.tensor([text])).logits[0, PROMPT - 1 : -1] for text in TEXTS])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "jsd"])
def test_divergences_are_weighted_and_mixed_with_cross_entropy(
    tmp_path: Path, name: str, packed: bool
) -> None:
    import torch

    from pipeline.train.trainer import losses

    teachers = [saved(tmp_path / "one", 1), saved(tmp_path / "three", 3)]
    student = tiny_student.model()
    objective = objective_of(teachers, divergence=name, beta=0.2, alpha=0.75, temperature=2)
    found = loss(objective, student, packed)
    logits = alone(student)
    one, three = (losses.divergence(name, logits, alone(tiny_student.model(n)), 0.2, 2) for n in (1, 3))
    ce = losses.cross_entropy(logits, torch.tensor([token for text in TEXTS for token in text[PROMPT:]]))
    torch.testing.assert_close(found, 0.75 * 4 * (0.25 * one + 0.75 * three) + 0.25 * ce)


def test_a_teacher_is_frozen_and_the_student_learns(tmp_path: Path) -> None:
    named = saved(tmp_path / "one", 1)
    objective, student, teacher = objective_of([named]), tiny_student.model(), loaded(named)
    loss(objective, student, packed=False, beside=[teacher]).sum().backward()
    assert objective.weights == [1]
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert student.get_output_embeddings().weight.grad.abs().sum() > 0


def test_a_student_equal_to_its_teacher_has_no_loss(tmp_path: Path) -> None:
    student = tiny_student.model(1)
    assert loss(objective_of([saved(tmp_path / "one", 1)]), student, packed=False).abs().max() < 1e-6


def test_another_vocabulary_is_rejected_with_a_token_that_differs(tmp_path: Path) -> None:
    other = tiny_student.tokenizer()
    other.add_tokens(["<extra>"])
    with pytest.raises(UserError, match="not the student's: 1 tokens differ, among them '<extra>'"):
        loaded(saved(tmp_path / "other", 1, other, 260))


def test_logits_of_padded_embeddings_are_ignored(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import losses

    student = tiny_student.model()
    found = loss(objective_of([saved(tmp_path / "padded", 1, size=320)]), student, packed=False)
    expected = losses.divergence("forward_kl", alone(student), alone(tiny_student.model(1)), 0.1)
    torch.testing.assert_close(found, expected)


def test_a_teacher_without_logits_for_all_tokens_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="259 tokens, but logits for 250, the student's for 259"):
        loaded(saved(tmp_path / "short", 1, size=250))


def test_a_padding_token_of_the_student_alone_is_allowed(tmp_path: Path) -> None:
    student, tokenizer = tiny_student.model(), tiny_student.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    student.resize_token_embeddings(260, mean_resizing=False)
    named = saved(tmp_path / "one", 1)
    inputs, _, _ = batch(packed=False)
    ids = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 259)
    beside = [loaded(named, student, tokenizer)]
    assert loss(objective_of([named]), student, False, beside, input_ids=ids).isfinite().all()


def test_a_teacher_that_cannot_be_loaded_is_rejected_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"teacher .* cannot be loaded"):
        loaded(KDTeacher(model=str(tmp_path)))


def test_having_no_teacher_is_an_error() -> None:
    with pytest.raises(UserError, match=r"train.logit_kd.teachers is empty"):
        objective_of([])
