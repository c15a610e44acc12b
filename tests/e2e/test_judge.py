"""Free-text answers, graded by an LLM judge: verdicts, cost, killed runs, an unreachable judge."""

import random
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.config.load import load_recipe
from pipeline.engine import worker_pool
from pipeline.engine.execute import execute
from pipeline.engine.store import Output
from pipeline.filter.stage import rules_stage
from pipeline.generate.stage import GENERATE
from pipeline.rows import JudgeVerdict, Trace
from pipeline.stages import STAGES
from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, sampled_run, sealed, start, write_recipe

JUDGE = """
[judge]
model = "fake"
base_url = "{url}"
"""


def free_recipe(folder: Path, url: str, judge: str = "http://127.0.0.1:9/v1") -> Path:
    recipe = write_recipe(folder, url)
    text = recipe.read_text().replace("[teacher]", 'answer_type = "free"\n[teacher]')
    recipe.write_text(text + JUDGE.format(url=judge))
    return recipe


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and a run of free-text traces after generate."""
    return sampled_run(tmp_path_factory.mktemp("judge"), free_recipe, "--correct", "0.5")


def judged_by(server: FakeServer, sampled: Path, folder: Path) -> Path:
    """Copies the run. Returns its recipe with this server as the judge."""
    shutil.copytree(sampled / "test", folder / "test")
    recipe = folder / "recipe.toml"
    text = (sampled / "recipe.toml").read_text()
    recipe.write_text(text.partition("[judge]")[0] + JUDGE.format(url=server.url))
    return recipe


def correct(trace: Trace) -> tuple[str, str, str]:
    """Outcome, reason and evidence of the rule `correct`."""
    (verdict,) = [v for v in trace.verdicts if v.filter == "correct"]
    return verdict.outcome, verdict.reason, verdict.evidence or ""


def is_correct(trace: Trace) -> bool:
    return re.findall(r"-?\d+", trace.response)[-1] == trace.reference


def texts(traces: list[Trace]) -> set[tuple[str, str]]:
    return {(t.question, t.response) for t in traces if t.response}


def test_a_judge_decides_correct_incorrect_or_unclear_once_for_each_text(
    sampled: Path, tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "0.8", "--malformed", "0.1", "--truncated", "0.1")
    recipe = judged_by(server, sampled, tmp_path)
    done = retort(
        tmp_path, "filter", str(recipe), "judge.price_per_mtok_out=100", "judge.env.TOKEN=hidden-value"
    )
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "test")
    traces = list(run.rows("filter"))
    assert server.stats()["requests"] == len(texts(traces)) < len(traces) == PROBLEMS * SAMPLES
    for trace in traces:
        outcome, reason, evidence = correct(trace)
        if not trace.response:
            assert (outcome, reason) == ("undecided", "no_answer")
        elif outcome == "undecided":
            assert reason == "unclear"
            assert "VERDICT" not in evidence
        else:
            assert (outcome, reason) == (("passed", "") if is_correct(trace) else ("failed", "incorrect"))
            assert evidence.endswith("VERDICT: correct" if is_correct(trace) else "VERDICT: incorrect")
    assert {correct(trace)[:2] for trace in traces if trace.response} == {
        ("passed", ""),
        ("failed", "incorrect"),
        ("undecided", "unclear"),
    }
    assert any(trace.outcome == "kept" for trace in traces)
    funnel = run.why()
    counted = funnel.kept + sum([*funnel.rejected.values(), *funnel.undecided.values()])
    assert counted == funnel.traces == PROBLEMS * SAMPLES
    judge_verdicts = list(run.rows("filter/judge"))
    assert {o.reasoning for o in judge_verdicts if o.outcome == "passed"} == {
        "I compare the response with the reference."
    }
    assert Counter(o.outcome for o in judge_verdicts).total() == len(texts(traces))
    status = retort(tmp_path, "status", "test").stdout
    assert f"filter/judge: {len(judge_verdicts)} requests" in status
    assert "hidden-value" not in (run.path / "recipe.json").read_text()
    assert "done already" in retort(tmp_path, "filter", str(recipe)).stderr
    other = retort(tmp_path, "filter", str(recipe), "judge.temperature=0.5")
    assert other.returncode == 2
    assert "filter/judge was made with other settings: temperature: 0.0 -> 0.5" in other.stderr


def test_a_killed_judge_stage_pays_each_request_once_and_ends_with_the_same_bytes(
    sampled: Path, tmp_path: Path, fake_server: StartFakeServer
) -> None:
    rng = random.Random(3)
    server = fake_server("--correct", "1", "--malformed", "0", "--truncated", "0", "--latency", "0.1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe = str(judged_by(server, sampled, whole))
    run_stages(whole, recipe, "filter")
    judged_by(server, sampled, killed)
    output = Output(killed / "test" / "filter" / "judge", JudgeVerdict)
    for _ in range(2):
        process = start(killed, "filter", recipe, f"judge.concurrency={rng.choice([2, 5])}")
        rows = rng.randint(3, 12) + (output.counts().rows if output.manifest() else 0)
        while process.poll() is None and (output.manifest() is None or output.counts().rows < rows):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    held, before = output.counts().rows, server.stats()["requests"]
    judge_verdicts = Output(whole / "test" / "filter" / "judge", JudgeVerdict)
    assert 0 < held < judge_verdicts.counts().rows
    assert retort(killed, "filter", recipe).returncode == 0
    assert server.stats()["requests"] - before == judge_verdicts.counts().rows - held
    assert sealed(output.folder) == sealed(judge_verdicts.folder)
    assert sealed(killed / "test" / "filter") == sealed(whole / "test" / "filter")


def test_an_unreachable_judge_is_an_error_before_anything_is_spent(sampled: Path, tmp_path: Path) -> None:
    shutil.copytree(sampled / "test", tmp_path / "test")
    done = retort(tmp_path, "filter", str(sampled / "recipe.toml"), "judge.max_retries=0")
    assert done.returncode == 2
    assert done.stderr.count("127.0.0.1:9") == 1
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "test" / "filter").rglob("*.parquet"))


def test_failed_judge_requests_end_with_3_and_may_be_allowed_as_undecided(
    sampled: Path, tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server(
        "--correct", "1", "--malformed", "0", "--truncated", "0", "--too-long", "What is 3 + 2?"
    )
    recipe = str(judged_by(server, sampled, tmp_path))
    first = retort(tmp_path, "filter", recipe)
    assert first.returncode == 3
    assert "filter/judge" in first.stderr
    before = server.stats()["requests"]
    second = retort(tmp_path, "filter", recipe, "judge.max_failed_fraction=0.1")
    assert second.returncode == 0, second.stderr
    assert server.stats()["requests"] - before <= SAMPLES
    failed = [t for t in open_run(tmp_path / "test").rows("filter") if correct(t)[1] == "judge_failed"]
    assert {t.question for t in failed} == {"What is 3 + 2?"}
    assert all(correct(t)[0] == "undecided" and "400" in correct(t)[2] for t in failed)


def test_parallel_processes_use_the_same_judge_verdicts_with_and_without_deduplication(
    sampled: Path, tmp_path: Path, fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fake_server("--correct", "1", "--malformed", "0", "--truncated", "0")
    path = judged_by(server, sampled, tmp_path)
    recipe = load_recipe(path)
    twins = load_recipe(path, ["filter.duplicates.traces=0.9"])
    asked = []
    for name, alone, wanted in (("one", 10**6, recipe), ("many", 0, recipe), ("twins", 0, twins)):
        shutil.copytree(sampled / "test", tmp_path / name)
        monkeypatch.setattr(worker_pool, "MIN_PARALLEL_ROWS", alone)
        assert execute(STAGES["filter"], wanted, tmp_path / name) == 0
        asked.append(server.stats()["requests"])
    assert asked == [asked[0], 2 * asked[0], 3 * asked[0]]
    assert sealed(tmp_path / "one" / "filter") == sealed(tmp_path / "many" / "filter")
    kept = [
        {t.id for t in open_run(tmp_path / n).rows("filter") if t.outcome == "kept"} for n in ("one", "twins")
    ]
    assert kept[1] < kept[0]


def test_judge_verdicts_of_an_evaluated_model_have_a_folder_of_their_own(
    sampled: Path, tmp_path: Path, fake_server: StartFakeServer
) -> None:
    recipe = load_recipe(judged_by(fake_server("--correct", "0.8"), sampled, tmp_path))
    folder = "evaluate/held_out/student"
    (tmp_path / "test" / folder).mkdir(parents=True)
    (tmp_path / "test" / "generate").rename(tmp_path / "test" / folder / "generate")
    sampled = replace(GENERATE, name=f"{folder}/generate")
    stage = rules_stage(f"{folder}/filter", sampled, recipe.filter, uses_judge=True)
    assert execute(stage, recipe, tmp_path / "test") == 0
    run = open_run(tmp_path / "test")
    assert "evaluate/held_out/student/filter/judge" in run.answer_stages()
    assert not (run.path / "filter").exists()
    judge_verdicts = list(run.rows("evaluate/held_out/student/filter/judge"))
    assert len(judge_verdicts) == len(texts(list(run.rows("evaluate/held_out/student/filter"))))


def test_free_answers_without_a_judge_or_with_adaptive_sampling_are_refused_before_any_work(
    tmp_path: Path,
) -> None:
    recipe = free_recipe(tmp_path, "http://127.0.0.1:9/v1")
    recipe.write_text(recipe.read_text().replace(f"samples = {SAMPLES}\n", ""))
    adaptive = retort(tmp_path, "generate", str(recipe), "generate.target_kept=1", "generate.max_samples=4")
    unknown = retort(tmp_path, "ingest", str(recipe), "judge.modle=x")
    recipe.write_text(recipe.read_text().partition("[judge]")[0])
    without = retort(tmp_path, "ingest", str(recipe))
    for done, words in (
        (adaptive, ("problems.jsonl", "target_kept cannot be")),
        (unknown, ("judge.modle", "did you mean 'model'")),
        (without, ("problems.jsonl", "[judge]")),
    ):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "test").exists()
