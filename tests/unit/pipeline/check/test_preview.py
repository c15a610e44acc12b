"""What `retort check` prints about the mistakes of a recipe, its first request, tokens and cost."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.check import preview
from pipeline.check.preview import _problems
from pipeline.cli.main import cli
from pipeline.config.load import parse_recipe
from pipeline.engine.execute import execute
from pipeline.ingest.stage import INGEST
from tests.conftest import StartFakeServer
from tests.e2e.runs import SAMPLES, write_recipe
from tests.small_run import write_run

PRICES = ("teacher.price_per_mtok_in=1", "teacher.price_per_mtok_out=2", "generate.max_tokens=1000")


def check(folder: Path, *words: str) -> tuple[int, str]:
    """Runs the command on a recipe without a student, whose model would have to be looked at."""
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().partition("[student]")[0])
    words = ("--runs", str(folder), "check", str(recipe), "ingest.sources.0.split=train", *words)
    done = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    return done.return_value, done.stdout


def test_mistakes_are_listed_before_anything_else(tmp_path: Path) -> None:
    write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    code, printed = check(tmp_path, "seed=a", "run=b/")
    assert code == 2
    first, second, last = printed.splitlines()
    assert "run: must have only letters" in first
    assert "seed: must be a whole number" in second
    assert "2 to correct" in last


def test_the_first_request_and_upper_bounds_are_printed_and_nothing_is_asked(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server()
    write_recipe(tmp_path, server.url, count=30)
    _, printed = check(tmp_path, *PRICES, 'teacher.extra_body={api_key="sk-0123456789"}')
    assert "    What is 1 + 1?\n" in printed
    assert "api_key = ***" in printed
    assert f"30 problems, {30 * SAMPLES} samples" in printed
    assert f"at most {30 * SAMPLES * 1000:,} completion tokens; at most 0.2" in printed
    assert server.stats()["requests"] == 0


def test_bounds_of_the_problems_that_were_read_are_not_called_those_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "small")
    problems = list(run.problems)
    [all_of_them] = list(preview._lines(run.recipe, run.recipe.teacher[0], problems, ()))[1:2]
    assert "first" not in all_of_them
    monkeypatch.setattr(preview, "READ", len(problems))
    first, costs, _ = preview._lines(run.recipe, run.recipe.teacher[0], problems, ())
    assert "at least 12 problems" in first
    assert costs.endswith(" to pay for the first 12 problems")


def test_samples_are_asked_for_and_give_an_estimate_but_leave_no_run(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server()
    write_recipe(tmp_path, server.url, count=30)
    _, printed = check(tmp_path, *PRICES, "--samples", "3")
    assert server.stats()["requests"] == 3
    assert "3 samples of " in printed
    assert " completion tokens; about " in printed
    assert not (tmp_path / "test").exists()


def test_a_rule_that_does_not_decide_rejects_no_sample(tmp_path: Path, fake_server: StartFakeServer) -> None:
    write_recipe(tmp_path, fake_server().url, count=30)
    rule = "filter.rules.length.min_response=8000"
    sampled = [
        next(
            line for line in check(tmp_path, "--samples", "3", *words)[1].splitlines() if "3 samples" in line
        )
        for words in ((), (rule, 'filter.ignored=["length"]'), (rule,))
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_nothing_is_sampled_while_what_generate_needs_is_missing(tmp_path: Path) -> None:
    write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    code, printed = check(tmp_path, "--samples", "3")
    assert code == 2
    assert "missing  generate  fake" in printed
    assert "the first request" not in printed


def test_problems_whose_traces_are_given_are_not_sampled(tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_text('{"question": "1 + 1?", "answer": "2", "response": "2"}\n')
    (tmp_path / "problems.jsonl").write_text('{"question": "2 + 1?", "answer": "3"}\n')
    sources = [
        {"kind": "traces", "path": str(tmp_path / "traces.jsonl"), "teacher": "other"},
        {"kind": "file", "path": str(tmp_path / "problems.jsonl")},
    ]
    teacher = {"model": "fake", "base_url": "http://127.0.0.1:9/v1"}
    tables = {"ingest": {"sources": sources, "held_out": 0}, "teacher": teacher, "run": "r"}
    recipe = parse_recipe(tables | {"generate": {"prompt": "plain"}}, (), "here")
    before = [problem.question for problem in _problems(recipe, tmp_path / "r")]
    execute(INGEST, recipe, tmp_path / "r")
    assert [problem.question for problem in _problems(recipe, tmp_path / "r")] == before == ["2 + 1?"]
