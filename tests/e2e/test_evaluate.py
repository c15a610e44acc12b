"""Evaluation with the fake server: sets, a single model, resuming, and no repeated requests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.config.load import load_recipe
from pipeline.engine.execute import execute
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.evaluate.models import eval_models, problems_stage, sampling_stages
from pipeline.inference.vllm_server import Server
from pipeline.rows import Example, Problem
from pipeline.stages import STAGES
from tests.conftest import StartFakeServer
from tests.e2e.runs import retort, run_stages, write_recipe

PROBLEMS = 10
EVALUATE = ("evaluate.samples=4", "evaluate.max_tokens=64")


def problems(folder: Path, name: str, first: int, **columns: str) -> Path:
    """Writes PROBLEMS sums that begin at `first`; `columns` renames question and answer."""
    path = folder / f"{name}.jsonl"
    keys = [columns.get(key, key) for key in ("question", "answer")]
    rows = ((f"What is {first + i} + {first}?", str(2 * first + i)) for i in range(PROBLEMS))
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return path


def without_student(folder: Path, url: str, **sets: Path) -> str:
    """Writes a recipe with two teachers, no student, half of the problems held out, and these sets."""
    recipe = write_recipe(folder, url, count=20)
    text = recipe.read_text().partition("[student]")[0].replace("held_out = 0.0", "held_out = 0.5")
    second = (
        f'[[teacher]]\nname = "second"\nmodel = "fake"\nbase_url = "{url}"\nextra_body = {{ top_k = 5 }}\n'
    )
    text = text.replace("[teacher]", "[[teacher]]").replace("[generate]", f"{second}[generate]")
    for name, path in sets.items():
        text += f'[[evaluate.sets]]\nname = "{name}"\nteacher_prompt = "plain"\n'
        text += f'[[evaluate.sets.sources]]\nkind = "file"\npath = "{path}"\n'
    recipe.write_text(text)
    return str(recipe)


def test_one_model_and_one_file_are_scored_by_one_command(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "0.7")
    given = problems(tmp_path, "sums", 3, question="text", answer="result")
    alone = ("evaluate", "--model", "fake", "--base-url", server.url, "--problems", str(given))
    columns = ("--question", "text", "--answer", "result", "--answer-type", "number")
    done = retort(tmp_path, *alone, *columns, *EVALUATE)
    assert done.returncode == 0, done.stderr
    for words in (
        "pass@1",
        "pass@4",
        "majority",
        "10 x 4",
        "temperature 0.6",
        "top_p 0.95",
        "teacher is fake",
    ):
        assert words in done.stdout
    assert "student" not in done.stdout
    assert server.stats()["requests"] == 4 * PROBLEMS
    run = open_run(tmp_path / "fake-sums")
    scores = list(run.scores)
    assert len(scores) == PROBLEMS
    assert {(s.set, s.model_role, s.prompt, s.samples) for s in scores} == {
        ("held_out", "teacher", "plain", 4)
    }
    assert 0 < sum(s.correct for s in scores) < 4 * PROBLEMS
    again = retort(tmp_path, *alone, *columns, *EVALUATE)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert server.stats()["requests"] == 4 * PROBLEMS
    assert done.stdout.splitlines()[0] in retort(tmp_path, "status", "fake-sums").stdout
    assert "40 traces" in retort(tmp_path, "why", "fake-sums").stdout
    assert "question: What is" in retort(tmp_path, "show", "fake-sums", "-n", "1").stdout
    named = retort(tmp_path, *alone, *columns, *EVALUATE, "run=mine", "evaluate.temperature=0.9")
    assert named.returncode == 0, named.stderr
    assert "temperature 0.9" in named.stdout
    assert (tmp_path / "mine/recipe.json").exists()


def test_evaluate_takes_either_a_recipe_or_a_model(tmp_path: Path) -> None:
    for words in (
        (),
        ("recipe.toml", "--model", "m", "--problems", "p.jsonl"),
        ("--model", "m"),
        ("--problems", "p.jsonl"),
        ("recipe.toml", "--prompt", "plain"),
    ):
        done = retort(tmp_path, "evaluate", *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "evaluate takes a RECIPE, or --model and --problems" in done.stderr
    given = str(problems(tmp_path, "sums", 3))
    alone = ("evaluate", "--model", "fake", "--base-url", "http://127.0.0.1:9/v1", "--problems", given)
    for more, words in (
        (("--answer-type", "maths"), "answer_type"),
        (("--answer", "gold"), "gold"),
        (("--prompt", "nosuch"), "nosuch"),
        (("evaluate.sampels=3",), "did you mean 'samples'"),
        (("--answer-type", "free"), "[judge]"),
    ):
        done = retort(tmp_path, *alone, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
    assert not list(tmp_path.glob("*/evaluate/*"))


def test_each_set_has_its_own_prompt_and_a_new_set_repeats_no_other(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "0.7")
    first, second = problems(tmp_path, "first", 11), problems(tmp_path, "second", 31)
    recipe = without_student(tmp_path, server.url, one=first)
    for stage in ("ingest", "evaluate"):
        done = retort(tmp_path, stage, recipe, *EVALUATE)
        assert done.returncode == 0, done.stderr
    assert done.stdout.index("held_out:") < done.stdout.index("one:")
    run = open_run(tmp_path / "test")
    held_out = sum(p.split == "held_out" for p in run.problems)
    assert 0 < held_out < 20
    asked = server.stats()["requests"]
    assert asked == 2 * 4 * (held_out + PROBLEMS)
    prompts = {(s.set, s.model_role, s.prompt) for s in run.scores}
    assert prompts == {
        ("held_out", "teacher-fake", "arithmetic"),
        ("held_out", "teacher-second", "arithmetic"),
        ("one", "teacher-fake", "plain"),
        ("one", "teacher-second", "plain"),
    }
    assert {p.split for p in run.rows("evaluate/one/problems")} == {"held_out"}
    before = {p: p.read_bytes() for p in (tmp_path / "test/evaluate/one").rglob("*.parquet")}

    recipe = without_student(tmp_path, server.url, one=first, two=second)
    more = retort(tmp_path, "evaluate", recipe, *EVALUATE)
    assert more.returncode == 0, more.stderr
    assert server.stats()["requests"] - asked == 2 * 4 * PROBLEMS
    assert {p: p.read_bytes() for p in before} == before
    assert {s.set for s in run.scores} == {"held_out", "one", "two"}
    asked = server.stats()["requests"]

    other = retort(tmp_path, "evaluate", recipe, *EVALUATE, "evaluate.temperature=0.9")
    assert other.returncode == 2
    assert "evaluate/held_out/teacher-fake/generate was made with other settings" in other.stderr
    assert "temperature: 0.6 -> 0.9" in other.stderr
    back = retort(tmp_path, "evaluate", recipe, *EVALUATE, "evaluate.held_out=false")
    assert back.returncode == 0, back.stderr
    assert {s.set for s in run.scores} == {"one", "two"}
    assert server.stats()["requests"] == asked


def test_an_evaluation_with_failed_requests_repeats_only_these(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--too-long", "What is 14 + 11?")
    recipe = without_student(tmp_path, server.url, one=problems(tmp_path, "first", 11))
    run_stages(tmp_path, recipe, "ingest")
    first = retort(tmp_path, "evaluate", recipe, "evaluate.held_out=false", *EVALUATE)
    assert first.returncode == 3
    assert "evaluate/one/teacher-fake/generate is incomplete" in first.stderr
    before = server.stats()["requests"]
    done = retort(
        tmp_path, "evaluate", recipe, "evaluate.held_out=false", *EVALUATE, "evaluate.max_failed_fraction=0.2"
    )
    assert done.returncode == 0, done.stderr
    # the four failed ones again, and all of the second teacher
    assert server.stats()["requests"] - before == 4 + 4 * PROBLEMS
    scores = list(open_run(tmp_path / "test").scores)
    assert sum(s.failed for s in scores) == 2 * 4


def test_free_answers_of_a_set_are_judged_by_a_model_and_training_traces_are_not(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server, judge = fake_server("--correct", "0.5"), fake_server("--correct", "0.8")
    recipe = Path(without_student(tmp_path, server.url, one=problems(tmp_path, "first", 11)))
    run_stages(tmp_path, recipe, "ingest", "generate", "filter")
    recipe.write_text(recipe.read_text() + 'answer_type = "free"\n')
    without = retort(tmp_path, "evaluate", str(recipe))
    assert without.returncode == 2
    assert "[judge]" in without.stderr
    recipe.write_text(recipe.read_text() + f'[judge]\nmodel = "fake"\nbase_url = "{judge.url}"\n')
    assert "done already" in retort(tmp_path, "filter", str(recipe)).stderr
    done = retort(tmp_path, "evaluate", str(recipe), *EVALUATE)
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "test")
    judges = [name for name in run.answer_stages() if name.endswith("/judge")]
    assert judges == [f"evaluate/one/teacher-{t}/filter/judge" for t in ("fake", "second")]
    assert judge.stats()["requests"] == sum(len(run.rows(name)) for name in judges) > 0


def test_a_recipe_without_a_student_runs_to_the_scores_without_training(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "0.8")
    recipe = without_student(tmp_path, server.url)
    train = retort(tmp_path, "train", recipe)
    assert train.returncode == 2
    assert "train needs a student" in train.stderr
    done = retort(tmp_path, "run", recipe, *EVALUATE)
    assert done.returncode == 0, done.stderr
    assert "teacher-second" in done.stdout
    assert len(open_run(tmp_path / "test").examples) > 0
    assert not (tmp_path / "test/train").exists()
    again = retort(tmp_path, "run", recipe, *EVALUATE)
    assert again.stderr.count("done already") == 5


def example(problem: Problem, split: str) -> Example:
    return Example.model_validate(
        {
            "id": f"{problem.id}-0-0000",
            "problem_id": problem.id,
            "source": "s",
            "teacher": "fake",
            "split": split,
            "pass_rate": None,
            "confidence": None,
            "tokens": None,
            "messages": (),
        }
    )


def test_all_models_are_compared_and_problems_seen_in_training_are_counted(
    tmp_path: Path, fake_server: StartFakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student is not trained, and all models are the fake server."""
    server = fake_server("--correct", "0.7")
    given = problems(tmp_path, "one", 11)
    sets = f'evaluate.sets=[{{name="one", sources=[{{kind="file", path="{given}"}}]}}]'
    recipe = load_recipe(write_recipe(tmp_path, server.url), ["ingest.held_out=0.5", *EVALUATE, sets])
    folder = tmp_path / "test"
    within = problems_stage(recipe.evaluate.sets[0])
    assert [execute(stage, recipe, folder) for stage in (STAGES["ingest"], within)] == [0, 0]
    learned = list(Output(folder / "evaluate/one/problems", Problem).rows())[:4]

    def select(job: Job, shards: Iterable[Shard]) -> None:
        rows = [example(p, "validation" if i == 3 else "train") for i, p in enumerate(learned)]
        job.output.write("examples", rows)

    def train(job: Job, shards: Iterable[Shard]) -> None:
        job.output.write("steps", [])

    chosen = replace(
        STAGES["select"], reads=(), shards_from=None, shards=("examples",), work=select, report=None
    )
    for stage in (chosen, replace(STAGES["train"], reads=(chosen,), work=train, report=None)):
        assert execute(stage, recipe, folder) == 0
    reached = Server(base_urls=(server.url,), model="fake")
    for model in eval_models(recipe, folder):
        (stage,) = sampling_stages(model, recipe, lambda job: nullcontext(reached))
        assert execute(stage, recipe, folder) == 0
    asked = server.stats()["requests"]
    assert execute(STAGES["evaluate"], recipe, folder) == 0
    assert server.stats()["requests"] == asked
    assert "3 problems of the set 'one' were trained on" in capsys.readouterr().err
    done = retort(tmp_path, "status", "test")
    assert "3 problems of the set 'one' were trained on" in done.stdout
    assert (
        done.stdout.count("student is ") == 2 * 2 + 1
    )  # two sets, two other models; and the name of the student
    assert done.stdout.count("of the pass@1 of teacher, 95 % from") == 2
    assert open_run(folder).report("evaluate")["trained_on"] == {"one": 3}
    compared = open_run(folder).report("evaluate")["student"]
    assert [(c["set"], c["other"]) for c in compared] == [
        ("held_out", "base"), ("held_out", "teacher"), ("one", "base"), ("one", "teacher"),
    ]  # fmt: skip


def test_a_model_with_several_roles_and_sets_is_served_once(tmp_path: Path) -> None:
    given = problems(tmp_path, "one", 11)
    sets = f'evaluate.sets=[{{name="one", sources=[{{kind="file", path="{given}"}}]}}]'
    text = write_recipe(tmp_path, "http://127.0.0.1:9/v1").read_text()
    student = text.partition("[student]")[2]
    served = f'[teacher]{student}serve = "vllm"\nprice_per_mtok_in = 1\n[generate]'
    (tmp_path / "recipe.toml").write_text(
        text.partition("[teacher]")[0] + served + text.partition("[generate]")[2]
    )
    recipe = load_recipe(
        tmp_path / "recipe.toml", ["ingest.held_out=0.5", sets, "student.price_per_mtok_in=1"]
    )
    models = eval_models(recipe, tmp_path)
    assert [(m.set, m.role) for m in models] == [
        (name, role) for name in ("held_out", "one") for role in ("teacher", "base", "student")
    ]
    assert len({m.server_key for m in models}) == 2
    assert len({m.server_key for m in models if not m.trained}) == 1
