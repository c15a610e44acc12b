"""Examples that think and examples that do not, in one training: rendered and checked, each in its form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.rows import Example
from pipeline.train.job import Prepared, TrainJob, read_preflight
from tests import tiny_student
from tests.tiny_student import CHATML, SWITCHED

pytest.importorskip("trl")

# Reads the switch in the prompt alone: an answer without thinking would get no empty block.
UNEQUAL = SWITCHED.replace("{% if off and message['role'] == 'assistant' %}", "{% if false %}")
EMPTY = "<think>\n\n</think>\n\n"


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.engine import worker_pool

    monkeypatch.setattr(worker_pool, "cores", lambda: [0])


def mixed() -> list[Example]:
    kinds = ("reasoning", "plain", "chat", "reasoning")
    return [tiny_student.example(n, kind=kind) for n, kind in enumerate(kinds)]  # type: ignore[arg-type]


def prepared(folder: Path, template: str, examples: list[Example], **job: Any) -> tuple[TrainJob, Any, Any]:
    """The job, its rows by id, and the tokenizer."""
    from pipeline.train.trainer import data, prepare

    student = tiny_student.save(folder / "student", template=template)
    file = tiny_student.write_examples(folder / "a.parquet", examples)
    made = tiny_student.job(folder, student, (file,), precision="fp32")
    made = made.model_copy(update={"mixed": True} | job)
    prepare.prepare(made)
    files = Prepared.model_validate_json(made.prepared.read_bytes()).files
    rows = {row["id"]: row for row in data.splits(files, made.train)["train"]}
    return made, rows, tiny_student.tokenizer(template)


def parts(row: Any, tokenizer: Any) -> tuple[str, str]:
    """The text without loss, and the text with loss."""
    learned = [id for id, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    return tokenizer.decode(row["input_ids"][: -len(learned)]), tokenizer.decode(learned)


def test_each_form_is_rendered_by_the_template_s_switch(tmp_path: Path) -> None:
    job, rows, tokenizer = prepared(tmp_path, SWITCHED, mixed())
    prompt, learned = parts(rows["p0-0"], tokenizer)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert learned.startswith("<think>\nCount")
    for id in ("p1-0", "p2-0"):
        prompt, learned = parts(rows[id], tokenizer)
        assert prompt.endswith(f"<|im_start|>assistant\n{EMPTY}")
        assert learned == f"\\boxed{{{int(id[1]) + 2}}}<|im_end|>\n"
    preflight = read_preflight(job.preflight)
    assert preflight is not None
    assert preflight.thinking_switch == "enable_thinking"
    (said,) = (check.value for check in preflight.checks if check.name == "thinking switch")
    assert said == "enable_thinking: on in 2 examples, off in 2"


def test_words_are_the_switch_of_a_template_without_one(tmp_path: Path) -> None:
    job, rows, tokenizer = prepared(tmp_path, CHATML, mixed())
    assert "/no_think" not in parts(rows["p0-0"], tokenizer)[0]
    prompt, learned = parts(rows["p1-0"], tokenizer)
    assert "<|im_start|>user\n2 + 1? /no_think<|im_end|>" in prompt
    assert learned == "\\boxed{3}<|im_end|>\n"
    preflight = read_preflight(job.preflight)
    assert preflight is not None
    assert preflight.thinking_switch == "user"


def test_without_a_mix_no_switch_is_passed(tmp_path: Path) -> None:
    job, rows, _ = prepared(tmp_path, SWITCHED, [tiny_student.example(0)], mixed=False)
    preflight = read_preflight(job.preflight)
    assert preflight is not None
    assert preflight.thinking_switch == "enable_thinking"  # for evaluate
    assert not [check for check in preflight.checks if "switch" in check.name]
    assert rows["p0-0"]["thinking"]


def with_reasoning(example: Example) -> Example:
    answer = example.messages[-1].model_copy(update={"content": "<think>\nno\n</think>\n\n\\boxed{3}"})
    return example.model_copy(update={"messages": (*example.messages[:-1], answer)})


@pytest.mark.parametrize(
    ("template", "change", "settings", "why"),
    [
        (CHATML, None, {"thinking_switch": "enable_thinking"}, "begins the prompt alike"),
        (CHATML.replace("{% for", "{% set messages = messages[-2:] %}{% for"), None, {}, ""),
        (SWITCHED, with_reasoning, {}, "it has reasoning, though its prompt asks for none"),
        (UNEQUAL, None, {}, "the server renders the prompt to other tokens"),
        (SWITCHED, None, {"served_template": CHATML}, "the server renders the prompt to other tokens"),
    ],
)
def test_a_planted_fault_is_refused(
    template: str, change: Any, settings: dict[str, Any], why: str, tmp_path: Path
) -> None:
    plain = tiny_student.example(1, kind="plain")
    examples = [tiny_student.example(0), change(plain) if change else plain]
    if not why:
        prepared(tmp_path, template, examples, **settings)
        return
    with pytest.raises(UserError, match=why) as error:
        prepared(tmp_path, template, examples, **settings)
    assert "example p1-0" in str(error.value)


def test_a_reasoning_example_without_reasoning_is_refused(tmp_path: Path) -> None:
    strips = SWITCHED.replace("{{ message['content']", "{{ message['content'].split('</think>')[-1]")
    with pytest.raises(UserError, match="example p0-0: the student's chat template drops the reasoning"):
        prepared(tmp_path, strips, mixed())


def test_both_traces_of_a_pair_are_checked_and_only_pairs_are_taken(tmp_path: Path) -> None:
    examples = [tiny_student.example(n, paired=n < 3) for n in range(4)]
    train = tiny_student.job(tmp_path, objective="redi").train
    job, rows, tokenizer = prepared(tmp_path, SWITCHED, examples, mixed=False, train=train)
    assert sorted(rows) == ["p0-0", "p1-0", "p2-0"]
    rejected = {name: rows["p1-0"][f"rejected_{name}"] for name in ("input_ids", "labels")}
    prompt, learned = parts(rejected, tokenizer)
    assert prompt == parts(rows["p1-0"], tokenizer)[0]
    assert learned == "<think>\nCount 1 up from 2.\n</think>\n\n\\boxed{4}<|im_end|>\n"
    preflight = read_preflight(job.preflight)
    assert preflight is not None
    assert preflight.examples == 6
    spoilt = examples[1].model_copy(update={"rejected": "<think>\nx\n</think>\n\n<|im_end|>4"})
    (tmp_path / "bad").mkdir()
    with pytest.raises(UserError, match=r"example p1-0: the completion contains '<|im_end|>'"):
        prepared(tmp_path / "bad", SWITCHED, [examples[0], spoilt], mixed=False, train=train)


def test_a_pair_is_left_out_if_either_trace_is_too_long(tmp_path: Path) -> None:
    long = tiny_student.example(1, paired=True)
    long = long.model_copy(update={"rejected": f"{long.rejected} and so on" * 20})
    train = tiny_student.job(tmp_path, objective="redi", max_length=200, max_overlong_fraction=0.5).train
    job, rows, _ = prepared(
        tmp_path, CHATML, [tiny_student.example(0, paired=True), long], mixed=False, train=train
    )
    assert list(rows) == ["p0-0"]
    preflight = read_preflight(job.preflight)
    assert preflight is not None
    assert preflight.left_out == ("p1-0",)


def test_without_any_pair_the_training_is_refused(tmp_path: Path) -> None:
    train = tiny_student.job(tmp_path, objective="redi").train
    with pytest.raises(UserError, match="there is no pair to train on"):
        prepared(tmp_path, CHATML, [tiny_student.example(0)], mixed=False, train=train)


@pytest.mark.parametrize(
    ("template", "switch", "fault"),
    [(SWITCHED, None, ""), (CHATML, None, ""), (CHATML, "thinking", "alike with thinking on and off")],
)
def test_check_finds_a_switch_that_the_template_does_not_read(
    template: str, switch: Any, fault: str, tmp_path: Path
) -> None:
    from pipeline.train.model_facts import ModelQuery
    from pipeline.train.trainer.read_model import read_model

    student = tiny_student.save(tmp_path / "student", template=template)
    teach = tuple(message.model_dump() for message in tiny_student.example(0).messages)
    query = ModelQuery(name="student", model=str(student), teach=teach, mixed=True, thinking_switch=switch)
    found = read_model(query).template_fault
    assert fault in found
    assert bool(fault) == bool(found)
