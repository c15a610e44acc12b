"""Generations: how they are written, counted and read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import generations
from pipeline.config import Recipe
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inference import model_files
from pipeline.rows import Example, Trace
from pipeline.train import generation
from tests import tiny_student


@pytest.mark.parametrize(
    ("base", "learned", "student"),
    [
        ("0", {"0"}, "1"),
        ("0", {"0", "2"}, "3"),
        ("5", {"0"}, "5"),
        (None, {"0"}, "1+"),
        ("0", {None}, "1+"),
        ("0", {"1+", "2"}, "3+"),
        ("3+", {"1"}, "3+"),
        ("1", set(), "1"),
    ],
)
def test_a_student_is_one_more_than_what_it_learns_from(
    base: str | None, learned: set[str | None], student: str
) -> None:
    assert generations.of_student(base, learned) == student


def test_what_is_no_generation_is_unknown_and_never_0() -> None:
    assert [generations.read(value) for value in (0, 2, "2", "2+", "12")] == ["0", "2", "2", "2+", "12"]
    for value in (None, "", "0+", "-1", -1, "1.5", True, "+", "two", ["1"], "1\n", "²", "12345"):
        assert generations.read(value) is None


def folder_of(path: Path, mark: object) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", generations.MARK: mark}))
    return str(path)


def test_a_folder_says_its_generation_and_others_are_unknown(tmp_path: Path) -> None:
    assert model_files.generation(folder_of(tmp_path / "student", "2+")) == "2+"
    assert model_files.generation(folder_of(tmp_path / "odd", {"a": 1})) is None
    (tmp_path / "odd" / "config.json").write_text("[1]")
    assert model_files.generation(str(tmp_path / "odd")) is None
    assert model_files.generation(str(tmp_path / "missing")) is None
    assert model_files.generation("nobody/not-cached") is None


def recipe(base: str = "org/base", **tables: Any) -> Recipe:
    made = tiny_student.recipe(base).model_dump()
    for name, table in tables.items():
        made[name] = [made[name][0] | table] if name == "teacher" else made[name] | table
    return Recipe.model_validate(made)


def test_a_student_of_a_deep_teacher_is_refused_before_sampling(tmp_path: Path) -> None:
    generation.check(recipe())  # all unknown
    generation.check(recipe(teacher={"generation": 2}))
    with pytest.raises(
        UserError,
        match=r"generation 4 or more, over train\.max_generation = 3: teacher is of generation 3\.",
    ):
        generation.check(recipe(teacher={"generation": 3}))
    generation.check(recipe(teacher={"generation": 3}, train={"max_generation": 4}))
    deep = folder_of(tmp_path / "deep", "4")
    for found in (
        recipe(deep),
        recipe(train={"objective": "logit_kd", "logit_kd": {"teachers": [{"model": deep}]}}),
        recipe(teacher={"model": deep, "base_url": None, "serve": "vllm"}),
    ):
        with pytest.raises(UserError, match=r"over train\.max_generation = 3: .*deep is of generation 4\."):
            generation.check(found)


def trace(problem: str, sample: int, found: str | None) -> Trace:
    question = {"question": "?", "reference": "1", "answer_type": "number", "source": "s"}
    unknown = dict.fromkeys(("prompt", "prompt_hash", "sampling", "seed", "reasoning", "prompt_tokens"))
    return Trace(
        id=f"{problem}-{sample}", problem_id=problem, sample=sample, teacher=f"teacher {found}", response="1",
        teacher_generation=found, finish_reason="stop", completion_tokens=1, **question, **unknown,
    )  # fmt: skip


def inputs(folder: Path, traces: list[Trace], examples: list[Example]) -> dict[str, Output]:
    made = {"generate": Output(folder / "generate", Trace), "select": Output(folder / "select", Example)}
    for (name, output), rows in zip(made.items(), (traces, examples), strict=True):
        output.save(Manifest(stage=name, version=1, settings={}, inputs={}))
        output.write("shard-00000", rows)
        output.finish()
    return made


def test_only_the_traces_that_are_taught_count(tmp_path: Path) -> None:
    original = {"student": {"generation": 0}}
    example = tiny_student.example(3)  # of the trace p3-0
    given = inputs(tmp_path / "a", [trace("p3", 0, "0"), trace("p3", 1, "1"), trace("p4", 0, "7")], [example])
    assert generation.of_student(recipe(**original), given, "org/base") == "1"
    pairs = {"train": {"objective": "redi"}, "select": {"rejected": True}}
    assert generation.of_student(recipe(**original, **pairs), given, "org/base") == "2"
    chat = tiny_student.example(5, kind="chat")
    mixed = inputs(tmp_path / "b", [trace("p3", 0, "0")], [example, chat])
    assert generation.of_student(recipe(**original), mixed, "org/base") == "1+"
    deep = inputs(tmp_path / "c", [trace("p3", 0, "3+")], [example])
    with pytest.raises(UserError, match=r"4 or more, .* = 3: teacher 3\+ is of generation 3 or more\."):
        generation.of_student(recipe(**original), deep, "org/base")
    last = tmp_path / "last"  # the student of an earlier round, with which this one starts
    last.mkdir()
    (last / "config.json").write_text('{"retort_generation": "2"}')
    assert generation.of_student(recipe(**original), given, str(last)) == "2"


def test_a_model_that_reads_behind_a_server_counts(tmp_path: Path) -> None:
    deep = folder_of(tmp_path / "deep", "2")
    given = inputs(tmp_path / "a", [trace("p3", 0, "0")], [tiny_student.example(3)])
    for objective in ("topk_kd", "on_policy"):
        for reader, expected in (
            ({"model": "unknown", "base_url": "http://127.0.0.1:1/v1"}, "1+"),
            ({"model": "teacher", "base_url": "http://127.0.0.1:1/v1"}, "2"),  # as [teacher] states it
        ):
            tables = {"student": {"generation": 0}, "teacher": {"generation": 1}}
            train = {"objective": objective, objective: {"teacher": reader}}
            found = generation.of_student(recipe(**tables, train=train), given, "org/base")
            assert found == expected, objective
    served = {"objective": "topk_kd", "topk_kd": {"teacher": {"model": deep, "serve": "vllm"}}}
    made = recipe(student={"generation": 0}, train=served)
    assert generation.of_student(made, given, "org/base") == "3"
