"""The filter stage: filters across traces, parallel processes, and the check of rejections."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.config.load import load_recipe
from pipeline.engine import worker_pool
from pipeline.engine.execute import execute
from pipeline.engine.options import Options
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import Duplicate, Trace, TraceVerdicts
from pipeline.stages import STAGES
from tests.conftest import FakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, sampled_run, sealed, write_recipe


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and a run after generate."""
    return sampled_run(tmp_path_factory.mktemp("filter"), write_recipe, "--correct", "0.7")


def filtered(sampled: Path, tmp_path: Path, table: str, code: int = 0) -> list[Trace]:
    """Filters the traces by rules written as TOML."""
    shutil.copytree(sampled / "test", tmp_path / "test")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((sampled / "recipe.toml").read_text() + table)
    done = retort(tmp_path, "filter", str(recipe))
    assert done.returncode == code, done.stderr
    return list(open_run(tmp_path / "test").rows("filter"))


def verdicts(traces: list[Trace], rule: str) -> Counter[str]:
    return Counter(f"{v.outcome} {v.reason}".strip() for t in traces for v in t.verdicts if v.filter == rule)


def test_a_duplicate_trace_is_rejected_and_names_the_kept_one(sampled: Path, tmp_path: Path) -> None:
    traces = filtered(sampled, tmp_path, "[filter.duplicates]\ntraces = 0.9\nproblems = 1.0\n")
    by_id = {trace.id: trace for trace in traces}
    duplicates = [t for t in traces if t.reason.startswith("duplicate_trace")]
    assert duplicates
    for trace in duplicates:
        (verdict,) = [v for v in trace.verdicts if v.filter == "duplicate_trace"]
        first = by_id[str(verdict.evidence).split(",")[0]]
        assert first.outcome == "kept"
        assert (first.problem_id, first.response) == (trace.problem_id, trace.response)
    for trace in traces:  # traces that other rules do not keep are not compared
        applied = {v.filter for v in trace.verdicts} & {"duplicate_trace", "duplicate_problem"}
        assert bool(applied) == (trace.outcome == "kept" or trace in duplicates)
    funnel = open_run(tmp_path / "test").why()
    assert (
        funnel.traces
        == PROBLEMS * SAMPLES
        == funnel.kept + sum([*funnel.rejected.values(), *funnel.undecided.values()])
    )


def test_parts_of_a_filter_search_for_duplicates_once(sampled: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text((sampled / "recipe.toml").read_text() + "[filter.duplicates]\n")
    recipe = load_recipe(path)
    for name in ("whole", "parts"):
        shutil.copytree(sampled / "test", tmp_path / name)
    whole, parts = tmp_path / "whole" / "filter", tmp_path / "parts" / "filter"
    assert execute(STAGES["filter"], recipe, whole.parent) == 0

    def part(number: int) -> int:
        return execute(STAGES["filter"], recipe, parts.parent, Options(part=(number, 2)))

    assert part(0) == 0
    assert not (parts / "duplicates").exists()  # part 1 has not applied its rules
    with Output(parts / "duplicates", Duplicate).lock():  # another part searches
        assert part(1) == 0
    assert sealed(parts / "each") == sealed(whole / "each")
    assert sealed(parts) == {}
    assert part(1) == 0
    found = {path.name: path.stat().st_mtime_ns for path in (parts / "duplicates").glob("*.parquet")}
    assert 0 < len(sealed(parts)) < len(found) == len(sealed(whole))
    assert part(0) == 0
    assert execute(STAGES["filter"], recipe, parts.parent) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (parts / "duplicates").glob("*.parquet")} == found
    assert sealed(parts) == sealed(whole)
    assert Output(parts, TraceVerdicts).complete


def test_traces_that_contain_an_evaluation_problem_are_rejected_with_the_shared_words(
    sampled: Path, tmp_path: Path
) -> None:
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"question": "What is 3 + 2?", "answer": "5"}) + "\n")
    table = "[filter.contamination]\nngrams = [6]\n[[filter.contamination.against]]\n"
    table += f'kind = "file"\npath = "{exam}"\n'
    hit = [t for t in filtered(sampled, tmp_path, table) if verdicts([t], "contamination")["passed"] == 0]
    assert {t.question for t in hit} == {"What is 3 + 2?"}
    assert len(hit) == SAMPLES
    (said,) = [v.evidence for v in hit[0].verdicts if v.filter == "contamination"]
    assert str(said).endswith(": what is 3 + 2")


def test_problems_too_easy_or_too_hard_are_rejected(sampled: Path, tmp_path: Path) -> None:
    traces = filtered(sampled, tmp_path, "[filter.difficulty]\nlow = 0.3\nhigh = 0.8\n")
    correct_of: dict[str, list[bool]] = {}
    for trace in traces:
        correct = next(v.outcome for v in trace.verdicts if v.filter == "correct")
        if correct != "undecided":
            correct_of.setdefault(trace.problem_id, []).append(correct == "passed")
    for trace in traces:
        rate = sum(correct_of[trace.problem_id]) / len(correct_of[trace.problem_id])
        (said,) = [v.outcome for v in trace.verdicts if v.filter == "difficulty"]
        if len(correct_of[trace.problem_id]) >= 2:
            assert (said == "passed") == (0.3 <= rate <= 0.8)


def test_without_a_reference_the_majority_vote_decides(tmp_path: Path) -> None:
    server = FakeServer("--correct", "0.8", "--malformed", "0", "--truncated", "0")
    try:
        recipe = write_recipe(tmp_path, server.url)
        recipe.write_text(recipe.read_text().replace("[teacher]", 'reference = ""\n[teacher]'))
        run_stages(tmp_path, recipe, "ingest", "generate")
        run_stages(tmp_path, recipe, "filter", settings=("filter.majority.margin=0.5",))
    finally:
        server.stop()
    traces = list(open_run(tmp_path / "test").rows("filter"))
    assert all("correct" not in {v.filter for v in t.verdicts} for t in traces)
    kept = [t for t in traces if t.outcome == "kept"]
    assert kept
    for trace in kept:
        (said,) = [str(v.evidence) for v in trace.verdicts if v.filter == "majority"]
        assert said.startswith("majority ")
    assert len({(t.problem_id, t.response) for t in kept}) == len({t.problem_id for t in kept})


def test_parallel_processes_write_the_same_bytes_as_one(
    sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(sampled / "recipe.toml")
    for name, minimum in (("one", 10**6), ("many", 0)):
        shutil.copytree(sampled / "test", tmp_path / name)
        monkeypatch.setattr(worker_pool, "MIN_PARALLEL_ROWS", minimum)
        assert execute(STAGES["filter"], recipe, tmp_path / name) == 0
    one, many = (
        {p.name: p.read_bytes() for p in (tmp_path / n / "filter").glob("*.parquet")} for n in ("one", "many")
    )
    assert one == many


def test_a_rule_that_rejects_nearly_everything_stops_the_run_unless_allowed(
    sampled: Path, tmp_path: Path
) -> None:
    filtered(sampled, tmp_path, "[filter.difficulty]\nlow = 0.01\nhigh = 0.02\n", code=2)
    recipe = str(tmp_path / "recipe.toml")
    said = retort(tmp_path, "filter", recipe).stderr
    assert "the rule 'difficulty' rejects" in said
    assert retort(tmp_path, "filter", recipe, "filter.max_rejected_fraction=1").returncode == 0


def test_a_run_stopped_by_such_a_rule_finishes_once_it_is_allowed(
    sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "MIN_PARALLEL_ROWS", 0)
    text = (sampled / "recipe.toml").read_text() + "[filter.difficulty]\nlow = 0.01\nhigh = 0.02\n"
    for name, more in (("plain", ""), ("compared", "[filter.duplicates]\n")):
        shutil.copytree(sampled / "test", tmp_path / name)
        path = tmp_path / f"{name}.toml"
        path.write_text(text + more)
        with pytest.raises(UserError, match="'difficulty' rejects"):
            execute(STAGES["filter"], load_recipe(path), tmp_path / name)
        allowed = load_recipe(path, ["filter.max_rejected_fraction=1"])
        assert execute(STAGES["filter"], allowed, tmp_path / name) == 0
