"""How alike two models predict a text, against the definitions over all logits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.rows import Message
from pipeline.train.comparison import Compared, CompareJob, Dialogue
from tests import tiny_student

pytest.importorskip("trl")
TEXT = [5, 6, 7, 8, 9, 10, 11, 12]
FIRST = 3


def models() -> tuple[Any, Any]:
    return tiny_student.model(0).eval(), tiny_student.model(1).eval()


def found(p: Any, q: Any, temperature: float = 1) -> Any:
    import torch

    from pipeline.train.trainer.compare import likeness

    return likeness("text", torch.tensor(TEXT), FIRST, (p, q), temperature)


def distributions(model: Any, temperature: float) -> Any:
    """(tokens, V) in float64, at the positions that predict the tokens from FIRST on."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([TEXT])).logits[0, FIRST - 1 : -1].double()
    return (logits / temperature).softmax(-1)


@pytest.mark.parametrize("temperature", [1, 0.6])
def test_the_overlap_is_the_sum_of_the_smaller_probabilities(temperature: float) -> None:
    p, q = models()
    both = [distributions(model, temperature) for model in (p, q)]
    overlap = sum(min(a, b) for a, b in zip(*(d.flatten().tolist() for d in both), strict=True))
    likeness = found(p, q, temperature)
    assert likeness.tokens == len(TEXT) - FIRST
    assert likeness.overlap == pytest.approx(overlap, rel=1e-5)
    assert 0 < likeness.overlap < likeness.tokens


def test_the_divergence_is_that_of_the_untempered_distributions() -> None:
    import torch

    p, q = models()
    a, b = (distributions(model, 1) for model in (p, q))
    expected = torch.nn.functional.kl_div(b.log(), a, reduction="sum").item()
    for temperature in (1, 0.6, 0):
        assert found(p, q, temperature).divergence == pytest.approx(expected, rel=1e-4)


def test_without_temperature_the_overlap_is_how_often_both_choose_the_same() -> None:
    p, q = models()
    chosen = [distributions(model, 1).argmax(-1) for model in (p, q)]
    same = int((chosen[0] == chosen[1]).sum())
    likeness = found(p, q, 0)
    assert (likeness.overlap, likeness.same) == (same, same)


def test_a_model_is_exactly_like_itself() -> None:
    p, _ = models()
    likeness = found(p, p)
    assert likeness.overlap == pytest.approx(likeness.tokens, rel=1e-6)
    assert likeness.divergence == pytest.approx(0, abs=1e-6)
    assert likeness.same == likeness.tokens


def test_slices_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.train.trainer import tiles

    p, q = models()
    whole = found(p, q)
    monkeypatch.setattr(tiles, "SLICE", 2 * 259)  # two tokens at once
    assert found(p, q).overlap == pytest.approx(whole.overlap, rel=1e-6)


def job(folder: Path, *others: Path, dialogues: int = 1) -> CompareJob:
    given = CompareJob(
        model=str(tiny_student.save(folder / "teacher")),
        others=tuple(Compared(model=str(other)) for other in others),
        temperature=1,
        bf16=False,
        cache=folder,
    )
    dialogue = Dialogue(
        id="p1", messages=(Message(role="user", content="1?"), Message(role="assistant", content="One."))
    )
    given.dialogues.write_text(f"{dialogue.model_dump_json()}\n" * dialogues)
    return given


def test_the_answer_and_its_end_of_turn_are_compared(tmp_path: Path) -> None:
    from pipeline.train.trainer.compare import compare

    ((likeness,),) = compare(job(tmp_path, tiny_student.save(tmp_path / "student", layers=1)))
    assert likeness.id == "p1"
    assert likeness.tokens == len("One.") + 2  # its end and the line break of the template


@pytest.mark.parametrize("drops", [False, True])
def test_an_answer_whose_reasoning_the_template_drops_is_refused(tmp_path: Path, drops: bool) -> None:
    from pipeline.train.trainer.compare import _texts

    given = job(tmp_path)
    answer = Message(role="assistant", content="<think>\nCount.\n</think>\n\nOne.")
    dialogue = Dialogue(id="p1", messages=(Message(role="user", content="1?"), answer))
    given.dialogues.write_text(f"{dialogue.model_dump_json()}\n")
    last = "message['content'].split('</think>')[-1]"  # as the template of DeepSeek-R1-Distill
    template = tiny_student.CHATML.replace("message['content']", last) if drops else tiny_student.CHATML
    with pytest.raises(UserError, match="drops the reasoning") if drops else nullcontext():
        assert len(list(_texts(given, tiny_student.tokenizer(template)))) == 1


def test_another_vocabulary_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    from pipeline.train.trainer.compare import compare, main

    other = tiny_student.save(tmp_path / "other")
    tokenizer = tiny_student.tokenizer()
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(other)
    (other / "model.safetensors").unlink()
    given = job(tmp_path, other, dialogues=0)
    with pytest.raises(UserError, match=r"its vocabulary is not that of .*teacher"):
        compare(given)
    given.file.write_text(given.model_dump_json())
    assert main(str(given.file)) == 2
    assert "'<|extra|>'" in given.refusal.read_text()


def test_without_texts_only_vocabularies_are_compared(tmp_path: Path) -> None:
    from pipeline.train.trainer.compare import compare

    given = job(tmp_path, tiny_student.save(tmp_path / "student"), dialogues=0)
    (Path(given.model) / "model.safetensors").unlink()
    assert compare(given) == [[]]
