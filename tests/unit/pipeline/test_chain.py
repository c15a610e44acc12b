"""The runs of rounds and of a cascade: their recipes, what they take over, and when rounds stop."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipeline.chain import gap, step_recipe
from pipeline.config import Recipe
from pipeline.config.endpoints import Student
from pipeline.config.load import parse_recipe
from pipeline.config.train import Train
from pipeline.engine.execute import DONE, execute
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.evaluate.models import eval_models, sampling_stages
from pipeline.ingest.stage import INGEST
from pipeline.inspect.chain_table import print_chain, steps_of, stopped_after
from pipeline.inspect.run import open_run
from pipeline.inspect.status import status_of
from pipeline.model_rows import Score, Step
from pipeline.report.build import gather
from pipeline.report.page import render
from pipeline.run_stages import run_stage
from pipeline.train import labels
from pipeline.train.stage import TRAIN

RECIPE: dict[str, Any] = {
    "run": "r",
    "ingest": {"sources": [{"kind": "file", "path": "problems.jsonl"}]},
    "teacher": {"model": "big", "base_url": "http://127.0.0.1:9/v1"},
    "generate": {"prompt": "arithmetic"},
    "student": {"model": "org/student", "layers": 18, "vllm": {"max_model_len": 512}},
}
PROBLEMS = 60
BOTH = {"n": 2, "teacher": "both", "prompt": "arithmetic"}


def recipe(**changes: Any) -> Recipe:
    return parse_recipe(json.loads(json.dumps(RECIPE | changes)), (), "here")


def rounds(**settings: Any) -> Recipe:
    return recipe(rounds={"n": 3} | settings)


def train(run_dir: Path, epochs: int = 1) -> str:
    """A complete training; returns its content id."""
    output = Output(run_dir / "train", Step)
    shutil.rmtree(output.folder, ignore_errors=True)
    output.save(Manifest(stage="train", version=5, settings={"epochs": epochs}, inputs={}, shards=("steps",)))
    output.write("steps", ())
    output.finish()
    manifest = output.manifest()
    assert manifest
    return manifest.content_id


def write_scores(run_dir: Path, given: Recipe, **correct: int) -> None:
    """Of four samples of each problem all are correct for the first problems, as many as the role has."""
    run_dir.mkdir(parents=True)
    (run_dir / "recipe.json").write_text(given.model_dump_json())
    output = Output(run_dir / "evaluate", Score)
    output.save(Manifest(stage="evaluate", version=4, settings={}, inputs={}, shards=("scores",)))
    scores = [score(role, i, 4 * (i < n)) for role, n in correct.items() for i in range(PROBLEMS)]
    output.write("scores", scores)
    output.finish()


def score(role: str, i: int, correct: int) -> Score:
    return Score(
        id=f"held_out/{role}/{i}", set="held_out", model_role=role, model="m", prompt="plain",
        problem_id=str(i), source="s", samples=4, correct=correct, majority=correct / 4, undecided=0,
        truncated=0, malformed=0, failed=0, completion_tokens=7,
    )  # fmt: skip


def test_the_first_round_is_the_recipe_and_takes_the_problems_of_its_run(tmp_path: Path) -> None:
    first = step_recipe(rounds(), 0, tmp_path)
    assert (first.run, first.reuse, first.parent, first.chain) == ("r-round-1", "r", None, ())
    changes = {"run": "r-round-1", "reuse": "r"}
    assert first == recipe().model_copy(update=changes)
    assert step_recipe(rounds().model_copy(update={"reuse": "old"}), 0, tmp_path).reuse == "old"


def test_the_student_of_a_round_teaches_the_next_one_with_its_own_prompt(tmp_path: Path) -> None:
    content = train(tmp_path / "r-round-1")
    second = step_recipe(rounds(), 1, tmp_path)
    [teacher] = second.teacher
    assert teacher.model == str(tmp_path / "r-round-1" / "train" / "model")
    assert teacher.serve == "vllm"
    assert teacher.vllm == {"max_model_len": 512}
    assert teacher.display_name == f"r-round-1-student-{content[:8]}"
    assert second.generate.prompt == second.select.prompt == "plain"
    assert second.reuse == "r-round-1"
    assert second.student == rounds().student
    assert json.loads(second.model_dump_json())["parent"] == {
        "run": "r-round-1", "student": content, "start": False
    }  # fmt: skip
    assert "start" not in TRAIN.settings(second)
    assert {m.role for m in eval_models(second, tmp_path)} == {"base", "student"}


def test_the_answers_of_the_base_are_valid_in_the_next_round(tmp_path: Path) -> None:
    train(tmp_path / "r-round-1")
    settings = []
    for i in (0, 1):
        step = step_recipe(rounds(), i, tmp_path)
        [base] = (model for model in eval_models(step, tmp_path / step.run) if model.role == "base")
        [stage] = sampling_stages(base, step, nullcontext)
        settings.append(stage.settings(step))
    assert settings[0] == settings[1]


def test_a_student_that_was_trained_again_is_another_teacher(tmp_path: Path) -> None:
    names = []
    for epochs in (1, 2):
        train(tmp_path / "r-round-1", epochs)
        names.append(step_recipe(rounds(), 1, tmp_path).teacher[0].name)
    assert names[0] != names[1]


def test_labels_of_a_student_that_was_trained_again_are_not_taken_over(tmp_path: Path) -> None:
    given = rounds().model_copy(update={"train": Train(objective="topk_kd")})
    settings = []
    for epochs in (1, 2):
        train(tmp_path / "r-round-1", epochs)
        settings.append(labels.settings(step_recipe(given, 1, tmp_path)))
    assert settings[0] != settings[1]


def test_a_training_that_goes_on_depends_on_the_student_before(tmp_path: Path) -> None:
    given = rounds(teacher="first", start="last")
    settings = []
    for epochs in (1, 2):
        train(tmp_path / "r-round-1", epochs)
        second = step_recipe(given, 1, tmp_path)
        settings.append(TRAIN.settings(second))
    assert settings[0] != settings[1]
    assert second.teacher == given.teacher
    assert second.generate.prompt == "arithmetic"
    assert {m.role for m in eval_models(second, tmp_path)} == {"student"}


def test_both_teachers_are_asked_with_one_prompt(tmp_path: Path) -> None:
    train(tmp_path / "r-round-1")
    second = step_recipe(rounds(teacher="both", prompt="arithmetic"), 1, tmp_path)
    assert [teacher.serve for teacher in second.teacher] == [None, "vllm"]
    assert second.generate.prompt == "arithmetic"


def test_a_cascade_ends_with_the_student(tmp_path: Path) -> None:
    given = recipe(
        cascade=[{"layers": 28}, {"layers": 24, "model": "org/other", "teacher": "both"}],
        generate={"prompt": "plain"},
    )
    assert given.chain == ("r-step-1", "r-step-2", "r-step-3")
    for name in given.chain[:2]:
        train(tmp_path / name)
    steps = [step_recipe(given, i, tmp_path) for i in range(3)]
    students = [step.student for step in steps]
    assert [(s.model, s.layers) for s in students if s] == [
        ("org/student", 28), ("org/other", 24), ("org/student", 18)
    ]  # fmt: skip
    assert [len(step.teacher) for step in steps] == [1, 1, 2]
    assert steps[2].teacher[0] == given.teacher[0]


def test_an_assistant_is_not_pruned_as_the_last_student_is(tmp_path: Path) -> None:
    pruned = {"layers": 18, "layers_by": "block_influence", "heads": 12, "intermediate_size": 1024}
    student = {"model": "org/student", "generation": 0, "licence": "mit"} | pruned
    given = recipe(student=student, cascade=[{"model": "org/other"}, {"layers": 24}])
    other, same, last = (step_recipe(given, i, tmp_path).student for i in range(3))
    assert other == Student(model="org/other")
    assert same == Student(model="org/student", layers=24, generation=0, licence="mit")
    assert last == given.student


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cascade": [{"layers": 24}]}, "one of them"),
        ({"student": None}, "needs a student"),
        ({"teacher": []}, "needs a teacher"),
        ({"rounds": {"n": 1}}, "rounds.n: must be greater than or equal to 2"),
        ({"rounds": {"n": 2, "teacher": "first"}}, 'start = "last"'),
        ({"rounds": {"n": 2, "teacher": "both"}}, "set rounds.prompt"),
        ({"rounds": BOTH, "train": {"objective": "topk_kd"}}, r"set train\.topk_kd\.teacher"),
        ({"rounds": BOTH, "train": {"objective": "on_policy"}}, r"set train\.on_policy\.teacher"),
        ({"rounds": BOTH, "train": {"features": {}}}, r"set train\.term_teacher"),
        ({"evaluate": {"models": ["teacher", "student"]}}, "evaluate.models"),
        ({"evaluate": {"modes": ["plain"]}}, "evaluate.modes"),
    ],
)
def test_rounds_that_cannot_run_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        recipe(**({"rounds": {"n": 3}} | changes))


def test_both_teachers_teach_by_their_traces_and_next_to_the_student() -> None:
    for train in ({}, {"objective": "logit_kd", "features": {}}, {"features": {}, "term_teacher": "org/big"}):
        assert recipe(rounds=BOTH, train=train).chain


def test_a_single_stage_of_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a chain"):
        run_stage("generate", rounds(), runs=tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_sources_are_read_once(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    given = rounds().model_copy(
        update={"ingest": recipe(ingest={"sources": [{"kind": "file", "path": str(problems)}]}).ingest}
    )
    assert execute(INGEST, given, tmp_path / "r") == DONE
    first = step_recipe(given, 0, tmp_path)
    assert execute(INGEST, first, tmp_path / "r-round-1") == DONE
    assert not (tmp_path / "r-round-1" / "events.jsonl").exists()  # nothing was read
    made, copied = (INGEST.output(tmp_path / name) for name in ("r", "r-round-1"))
    assert made.manifest() == copied.manifest()
    assert list(made.rows()) == list(copied.rows())
    problems.write_text('{"question": "1 + 2?", "answer": "3"}\n')
    assert execute(INGEST, first.model_copy(update={"run": "x"}), tmp_path / "x") == DONE
    assert [problem.question for problem in INGEST.output(tmp_path / "x").rows()] == ["1 + 2?"]


def test_rounds_stop_after_the_first_without_a_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = rounds()
    write_scores(tmp_path / "r-round-1", step_recipe(given, 0, tmp_path), base=10, student=30)
    steps = steps_of(given, tmp_path)
    assert stopped_after(given, steps) is None
    write_scores(tmp_path / "r-round-2", step_recipe(given, 1, tmp_path), base=10, student=31)
    steps = steps_of(given, tmp_path)
    first, second, third = steps
    assert round(first.scores[0].difference.mean, 6) == round(20 / PROBLEMS, 6)  # type: ignore[union-attr]
    assert round(second.scores[0].difference.mean, 6) == round(1 / PROBLEMS, 6)  # type: ignore[union-attr]
    assert third.scores == ()
    assert stopped_after(given, steps) == second
    assert stopped_after(rounds(stop_without_gain=False), steps) is None
    print_chain(given, steps)
    printed = capsys.readouterr().out
    assert "r-round-2 shows no gain" in printed
    assert "not begun" in printed


def test_status_and_report_of_the_name_show_the_steps(tmp_path: Path) -> None:
    given = rounds()
    write_scores(tmp_path / "r-round-1", step_recipe(given, 0, tmp_path), base=10, student=30)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.json").write_text(given.model_dump_json())
    run = open_run(tmp_path / "r")
    status = status_of(run)
    assert [stage.stage for stage in status.stages] == ["ingest"]
    assert [step.run for step in status.chain] == list(given.chain)
    page = render(gather(run))
    assert "r-round-3</td>" in page
    assert "50.0 % [" in page


def test_a_wide_gap_is_told() -> None:
    assert gap(32_000_000_000, 1_500_000_000).count("21.3 times smaller; more than 5 times") == 1
    assert "more than" not in gap(5_000, 1_000)
    assert "unknown size" in gap(None, 1_000)
