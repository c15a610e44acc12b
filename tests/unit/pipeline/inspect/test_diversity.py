"""Diversity of traces: the measures by hand, and a warning where they fall by more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import parse_recipe
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.filter.funnel import funnel
from pipeline.inspect import diversity, status
from pipeline.inspect.diff import diff_of
from pipeline.inspect.run import Run, open_run
from pipeline.rows import Trace, TraceVerdicts
from tests.small_run import RECIPE

Said = Callable[[int, int], tuple[str, str]]  # problem, sample -> reasoning and answer
PROBLEMS, SAMPLES, SHARD = 30, 3, 10
COLOURS = ("red", "green", "blue", "grey", "pink", "gold", "teal")


def write(folder: Path, said: Said, problems: int = PROBLEMS, **tables: object) -> Run:
    """A filtered run; the first sample of each problem is kept."""
    folder.mkdir(parents=True)
    recipe = parse_recipe({**RECIPE, "run": folder.name, **tables}, (), "here")
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    traces, verdicts = Output(folder / "generate", Trace), Output(folder / "filter", TraceVerdicts)
    names = tuple(f"shard-{i:05d}" for i in range(math.ceil(problems / SHARD)))
    for output in (traces, verdicts):
        output.save(Manifest(stage=output.folder.name, version=1, settings={}, inputs={}, shards=names))
    for i, name in enumerate(names):
        numbers = range(i * SHARD, min(problems, (i + 1) * SHARD))
        rows = [trace(p, n, *said(p, n)) for p in numbers for n in range(SAMPLES)]
        traces.write(name, rows)
        decided = [
            TraceVerdicts(
                id=t.id,
                problem_id=t.problem_id,
                outcome="rejected" if t.sample else "kept",
                reason="",
                verdicts=(),
            )
            for t in rows
        ]
        verdicts.write(name, decided)
    traces.finish()
    verdicts.finish(funnel([shard.path for shard in verdicts.shards()]).model_dump())
    return open_run(folder)


def trace(problem: int, sample: int, reasoning: str, answer: str) -> Trace:
    unknown = dict.fromkeys(("reference", "prompt", "prompt_hash", "sampling", "seed", "prompt_tokens"))
    return Trace(
        id=f"{problem:016x}-0-{sample:04d}", problem_id=f"{problem:016x}", sample=sample, teacher="t",
        question=f"{problem}?", answer_type="number", source="s", reasoning=reasoning,
        response=f"The answer is {answer}.", finish_reason="stop", completion_tokens=9, **unknown,
    )  # fmt: skip


def varied(problem: int, sample: int) -> tuple[str, str]:
    words = [COLOURS[(problem * 3 + sample * k + k) % 7] for k in range(1, 13)]
    return " ".join([*words, f"step{problem}x{sample}"]), str(problem + sample)


def collapsed(problem: int, sample: int) -> tuple[str, str]:
    return " ".join([*COLOURS, *COLOURS[: 5 + sample % 2], "done"]), str(problem)


def test_the_measures_are_those_of_their_definitions(tmp_path: Path) -> None:
    texts = {
        (0, 0): "a b c d",
        (0, 1): "a b c e",
        (0, 2): "x y z",
        (1, 0): "a b",
        (1, 1): "a b",
        (1, 2): "a b",
    }
    answers = {(0, 0): "1", (0, 1): "1", (0, 2): "2"}
    run = write(tmp_path / "run", lambda p, n: (texts[p, n], answers.get((p, n), "7")), problems=2)
    found = diversity.diversity_of(run)
    assert found is not None
    assert (found.all.problems, found.all.traces) == (2, 6)
    # "a b c d the answer is 1 ." and "a b the answer is 7 .": 10 of 16 words differ, and 11 of 14 pairs
    assert found.all.distinct_1 == pytest.approx(10 / 16)
    assert found.all.distinct_2 == pytest.approx(11 / 14)
    # Triples of problem 0: 7, 7 and 6. The first two share "a b c", "the answer is", "answer is 1", "is 1 ."
    pairs = (4 / 10, 1 / 12, 1 / 12)
    assert found.all.self_similarity == pytest.approx((sum(pairs) / 3 + 1) / 2)
    entropy = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert found.all.answer_entropy == pytest.approx(entropy / 2)
    assert found.kept is not None
    assert (found.kept.traces, found.kept.self_similarity, found.kept.answer_entropy) == (2, None, None)
    assert found.kept.distinct_1 == found.all.distinct_1


def test_a_run_whose_traces_are_alike_is_less_diverse_than_its_parent(tmp_path: Path) -> None:
    parent = write(tmp_path / "first", varied)
    (tmp_path / "first/train/model").mkdir(parents=True)
    teacher = {**RECIPE["teacher"], "model": str(tmp_path / "first/train/model")}
    run = write(tmp_path / "second", collapsed, teacher=teacher)
    found = diversity.diversity_of(run)
    assert found is not None
    assert found.parent == "first"
    less = {(change.traces, change.measure) for change in found.changes if change.less_diverse}
    assert less >= {("all", "self-similarity"), ("all", "bits of answer entropy"), ("kept", "distinct-1")}
    warnings = [
        line for line in diversity.lines(found) if line.startswith("warning: less diverse than first")
    ]
    assert len(warnings) == len(less)
    assert any("self-similarity of all traces" in line and "over 30 problems" in line for line in warnings)
    document = status.status_of(run)
    assert document.diversity == found
    between = diff_of(parent, run)
    assert between.diversity == found.changes
    assert not any(change.less_diverse for change in diff_of(run, parent).diversity)
    assert not any(change.less_diverse for change in diff_of(run, run).diversity)


def test_few_or_other_problems_give_no_warning(tmp_path: Path) -> None:
    parent = write(tmp_path / "first", varied, problems=5)
    run = write(tmp_path / "second", collapsed, reuse="first")
    found = diversity.diversity_of(run)
    assert found is not None
    assert found.parent == "first"
    assert {change.problems for change in found.changes} == {5}
    assert not any(change.less_diverse for change in found.changes)
    none = write(tmp_path / "third", lambda p, n: varied(p, n), problems=1)
    assert diversity.diversity_of(none).parent is None  # type: ignore[union-attr]
    assert len(diff_of(parent, none).diversity) == len(diff_of(none, parent).diversity) > 0


def test_hostile_traces_are_measured_in_bounded_text(tmp_path: Path) -> None:
    run = write(tmp_path / "run", lambda p, n: ("word " * 50_000 if n else "", "9" * 5000), problems=3)
    found = diversity.diversity_of(run)
    assert found is not None
    assert found.all.characters == pytest.approx((2 * (250_000 + 5016) + 5016) / 3, rel=0.01)
