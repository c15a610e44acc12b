"""Traces that exist already, in the layouts of published data sets, from ingest to select.

The rows are ours; the columns are those that the data sets' cards name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import Run, open_run
from pipeline.cli.main import cli
from pipeline.config import Recipe
from pipeline.config.load import parse_recipe
from pipeline.engine.execute import DONE, execute
from pipeline.engine.options import NO_OPTIONS, Options
from pipeline.errors import UserError
from pipeline.rows import Trace
from pipeline.stages import STAGES
from tests.conftest import StartFakeServer
from tests.e2e.runs import retort

STEPS = ("ingest", "generate", "filter", "select")
SUMS = [(n, n % 7 + 2) for n in range(3, 15)]


def recipe(*sources: dict[str, Any], **tables: Any) -> Recipe:
    given = {"ingest": {"sources": list(sources), "held_out": 0.0, "shard_size": 5}, **tables}
    return parse_recipe({"run": "test", **given}, (), "recipe")


def work(given: Recipe, runs: Path, steps: Sequence[str] = STEPS, options: Options = NO_OPTIONS) -> Run:
    for name in steps:
        STAGES[name].check(given)
        assert execute(STAGES[name], given, runs / given.run, options) == DONE
    return open_run(runs / given.run)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def question(a: int, b: int) -> str:
    return f"What is {a} + {b}?"


def thought(a: int, b: int, n: int = 0) -> str:
    return f"I begin with {a}. Then I add {b}, one by one. This is attempt {n}. That gives {a + b}."


def answer(value: int) -> str:
    return f"The sum is \\boxed{{{value}}}."


def report(run: Run) -> dict[str, Any]:
    found = run.report("ingest")
    left_out = sum(found[name] for name in ("held_out_traces", "duplicates", "conflicting", "bad_rows"))
    assert found["read"] == found["traces"] + left_out
    assert found["traces"] == run.counts()["generate"].rows
    return found


def kept(run: Run) -> list[Trace]:
    return list(run.traces.where(outcome="kept"))


def test_rows_as_of_openthoughts3(tmp_path: Path) -> None:
    rows = [
        {
            "difficulty": None,
            "source": "ai2-adapt-dev/openmath-2-math",
            "domain": "math",
            "conversations": [
                {"from": "human", "value": question(a, b)},
                {
                    "from": "gpt",
                    "value": f"<think>\n{thought(a, b, n)}\n</think>\n\n{answer(a + b + (n == 3))}",
                },
            ],
        }
        for n in range(4)
        for a, b in SUMS
    ]
    source = {
        "kind": "traces",
        "path": write(tmp_path / "open.parquet", rows),
        "messages": "conversations",
        "reference": "",
        "teacher": "QwQ-32B",
    }
    rules = {"rules": {"correct": True}, "majority": {"votes": 4, "margin": 0.5}}
    run = work(recipe(source, filter=rules), tmp_path)
    assert report(run)["problems"] == len(SUMS)
    assert run.why().kept == 3 * len(SUMS)
    assert run.why().rejected == {"majority: minority": len(SUMS)}
    trace = run.traces.head(1)[0]
    assert (trace.question, trace.reasoning, trace.response) == (
        question(*SUMS[0]),
        thought(*SUMS[0], 0),
        answer(sum(SUMS[0])),
    )
    assert (trace.teacher, trace.prompt, trace.sampling, trace.seed) == ("QwQ-32B", None, None, None)
    assert len(run.examples) == 3 * len(SUMS)


def test_rows_as_of_openr1_math(tmp_path: Path) -> None:
    rows = [
        {
            "problem": question(a, b),
            "solution": f"Add them: {a + b}.",
            "answer": str(a + b),
            "problem_type": "Algebra",
            "question_type": "math-word-problem",
            "source": "olympiads",
            "uuid": f"id-{a}",
            "is_reasoning_complete": [True, True, False],
            "generations": [
                f"<think>\n{thought(a, b, 0)}\n</think>\n{answer(a + b)}",
                f"<think>\n{thought(a, b, 1)}\n</think>\n{answer(a + b + 1)}",
                f"<think>\n{thought(a, b, 2)}",
            ],
            "correctness_math_verify": [True, False, False],
            "finish_reasons": None,
            "correctness_count": 1,
            "messages": [{"role": "user", "content": question(a, b)}],
        }
        for a, b in SUMS
    ]
    source = {
        "kind": "traces",
        "path": write(tmp_path / "openr1.jsonl", rows),
        "question": "problem",
        "response": "generations",
        "finish_reason": "is_reasoning_complete",
        "teacher": "DeepSeek-R1",
    }
    run = work(recipe(source), tmp_path)
    assert (report(run)["read"], report(run)["problems"]) == (3 * len(SUMS), len(SUMS))
    assert run.why().rejected == {"correct: incorrect": len(SUMS), "finished: truncated": len(SUMS)}
    assert [trace.sample for trace in kept(run)] == [0] * len(SUMS)
    assert len(run.examples) == len(SUMS)


def test_rows_as_of_openmathreasoning(tmp_path: Path) -> None:
    models = ("DeepSeek-R1", "QwQ-32B")
    rows = [
        {
            "expected_answer": str(a + b),
            "problem_type": "has_answer_extracted",
            "problem_source": "aops_c6_high_school_olympiads",
            "generation_model": model,
            "pass_rate_72b_tir": "0.5",
            "problem": question(a, b),
            "generated_solution": f"<think>\n{thought(a, b)}\n</think>{answer(a + b)}",
            "inference_mode": "cot",
            "used_in_kaggle": False,
        }
        for a, b in SUMS
        for model in models
    ]
    source = {
        "kind": "traces",
        "path": write(tmp_path / "omr.csv.jsonl", rows),
        "question": "problem",
        "reference": "expected_answer",
        "response": "generated_solution",
        "reasoning_format": "think",
        "teacher_column": "generation_model",
    }
    run = work(recipe(source, select={"per_problem": 2}), tmp_path)
    assert Counter(trace.teacher for trace in kept(run)) == dict.fromkeys(models, len(SUMS))
    assert report(run)["duplicates"] == 0


def test_rows_as_of_s1k(tmp_path: Path) -> None:
    rows = [
        {
            "solution": str(a + b),
            "question": question(a, b),
            "cot_type": "math",
            "source_type": "AI-MO/NuminaMath-CoT/aops_forum",
            "metadata": "{}",
            "cot": None,
            "thinking_trajectories": [thought(a, b)],
            "attempt": answer(a + b),
        }
        for a, b in SUMS
    ]
    source = {
        "kind": "traces",
        "path": write(tmp_path / "s1k.parquet", rows),
        "reference": "solution",
        "response": "attempt",
        "reasoning": "thinking_trajectories.0",
        "teacher": "gemini-2.0-flash-thinking",
    }
    run = work(recipe(source), tmp_path)
    assert {(t.reasoning, t.finish_reason, t.completion_tokens) for t in kept(run)} == {
        (thought(a, b), "stop", None) for a, b in SUMS
    }
    assert len(run.examples) == len(SUMS)


def exported(run: Run, path: Path, inline: bool) -> str:
    """The traces of a run as rows of others."""
    rows = []
    for trace in run.traces:
        row = trace.model_dump(
            include={"id", "question", "reference", "response", "finish_reason", "teacher"}
        )
        row |= {"thought": trace.reasoning, "n": trace.completion_tokens}
        if inline and trace.reasoning and trace.response:
            row |= {"thought": None, "response": f"<think>\n{trace.reasoning}\n</think>\n\n{trace.response}"}
        rows.append(row)
    return write(path, rows)


def verdicts(run: Run) -> dict[tuple[str, int], Any]:
    """(question, number of the trace) -> its texts and what the filters say of them."""
    found: Counter[str] = Counter()
    texts = {}
    for t in sorted(run.traces, key=lambda t: (t.question, t.sample)):
        found[t.question] += 1
        said = (t.reasoning, t.response, t.outcome, t.reason, t.verdicts)
        texts[t.question, found[t.question]] = said
    return texts


@pytest.mark.parametrize("inline", [False, True])
def test_the_rows_of_a_run_get_the_same_verdicts_as_traces_of_others(
    fake_server: StartFakeServer, tmp_path: Path, inline: bool
) -> None:
    problems = [{"question": question(a, b), "answer": str(a + b)} for a, b in SUMS]
    own = {"kind": "file", "path": write(tmp_path / "problems.jsonl", problems), "answer_type": "number"}
    rules = {
        "rules": {"no_repetition": True, "length": {}, "consistency": True},
        "difficulty": {"low": 0.2, "high": 1.0},
        "max_rejected_fraction": 1,
    }
    server = {"model": "fake", "base_url": fake_server("--correct", "0.6").url}
    sampled = recipe(own, teacher=server, generate={"prompt": "arithmetic", "samples": 4}, filter=rules)
    first = work(sampled, tmp_path / "own")
    given = {
        "kind": "traces",
        "path": exported(first, tmp_path / "given.jsonl", inline),
        "reference": "reference",
        "reasoning": "thought",
        "finish_reason": "finish_reason",
        "tokens": "n",
        "trace_id": "id",
        "teacher_column": "teacher",
        "answer_type": "number",
    }
    second = work(recipe(given, filter=rules), tmp_path / "given")
    assert report(second)["duplicates"] == 0
    assert verdicts(first) == verdicts(second)
    assert 0 < first.why().kept < first.why().traces
    assert [e.messages for e in first.examples] == [e.messages for e in second.examples]


def as_given(path: Path, rows: Sequence[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return {"kind": "traces", "path": write(path, rows), "teacher": "other", **settings}


def rows_of(sums: Sequence[tuple[int, int]], samples: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "question": question(a, b),
            "answer": str(a + b),
            "response": f"<think>{thought(a, b, n)}</think>{answer(a + b)}",
        }
        for a, b in sums
        for n in range(samples)
    ]


def test_problems_and_traces_are_mixed_and_a_teacher_is_asked_for_problems_alone(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    server = fake_server()
    problems = [{"question": question(a, b), "answer": str(a + b)} for a, b in SUMS]
    own = {"kind": "file", "path": write(tmp_path / "problems.jsonl", problems)}
    given = as_given(tmp_path / "given.jsonl", rows_of([*SUMS[:3], (100, 1), (200, 1)]))
    teacher = {"model": "fake", "base_url": server.url}
    sampling = {"prompt": "arithmetic", "samples": 3}
    mixed = recipe(own, given, teacher=teacher, generate=sampling)
    run = work(mixed, tmp_path)
    assert Counter(trace.teacher for trace in run.traces) == {"other": 10, "fake": 3 * (len(SUMS) - 3)}
    assert server.stats()["requests"] == 3 * (len(SUMS) - 3)
    assert len({trace.id for trace in run.traces}) == len(run.traces)
    assert run.report("generate").get("not_sent") is None
    positions = {p.id: n for n, p in enumerate(run.problems)}
    order = [positions[t.problem_id] for t in run.traces]
    assert order == sorted(order)  # the samples of a problem are adjacent, in the order of problems


def test_a_source_that_grows_changes_no_trace_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    given = recipe(as_given(path, rows_of(SUMS[:7])))
    before = {t.id: t for t in work(given, tmp_path).traces}
    write(path, [*rows_of(SUMS[:7]), *rows_of(SUMS[5:], 3)])
    run = work(given, tmp_path)
    after = {t.id: t for t in run.traces}
    assert after | before == after
    assert report(run)["duplicates"] == 4
    assert len(after) == 14 + 2 + 15


def test_a_run_goes_on_with_a_teacher_when_problems_join_its_traces(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    given = as_given(tmp_path / "given.jsonl", rows_of(SUMS[:4]))
    work(recipe(given), tmp_path)
    problems = [{"question": question(a, b), "answer": str(a + b)} for a, b in SUMS[4:]]
    own = {"kind": "file", "path": write(tmp_path / "problems.jsonl", problems)}
    teacher = {"model": "fake", "base_url": fake_server().url}
    wider = recipe(given, own, teacher=teacher, generate={"prompt": "arithmetic", "samples": 2})
    assert len(work(wider, tmp_path).traces) == 8 + 2 * len(SUMS[4:])
    assert len(work(recipe(given), tmp_path).traces) == 8


def test_the_same_traces_give_the_same_bytes(tmp_path: Path) -> None:
    given = recipe(as_given(tmp_path / "given.jsonl", rows_of(SUMS)))
    for runs in ("one", "two"):
        work(given, tmp_path / runs)
    for stage in STEPS:
        names = [path.name for path in (tmp_path / "one" / "test" / stage).glob("*.parquet")]
        assert names
        for name in names:
            one, two = (tmp_path / runs / "test" / stage / name for runs in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()


def test_parts_of_an_array_job_write_the_given_traces_of_their_shards(tmp_path: Path) -> None:
    given = recipe(as_given(tmp_path / "given.jsonl", rows_of(SUMS)))
    work(given, tmp_path, ("ingest",))
    for part in range(2):
        work(given, tmp_path, ("generate",), Options(part=(part, 2)))
    run = work(given, tmp_path, ("generate", "filter"))
    assert len(run.traces) == 2 * len(SUMS)


def test_missing_given_traces_are_an_error_and_no_reason_to_ask(tmp_path: Path) -> None:
    given = recipe(as_given(tmp_path / "given.jsonl", rows_of(SUMS)))
    work(given, tmp_path, ("ingest",))
    (tmp_path / "test" / "ingest" / "traces" / "shard-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"shard-00001\.parquet has 0 of 10 traces"):
        execute(STAGES["generate"], given, tmp_path / "test")


def test_problems_without_traces_need_a_teacher(tmp_path: Path) -> None:
    own = {"kind": "file", "path": write(tmp_path / "problems.jsonl", [{"question": "Why?", "answer": "1"}])}
    with pytest.raises(UserError, match=r"no \[teacher\] to sample the problems"):
        STAGES["generate"].check(recipe(own))
    with pytest.raises(UserError, match=r"evaluate has no model to score"):
        STAGES["evaluate"].check(recipe(own))


def test_a_reference_that_most_samples_contradict_is_a_suspect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(SUMS, samples=6)
    for row in rows:
        if row["question"] == question(*SUMS[1]):  # wrong in the source, and all samples agree
            row["answer"] = "1000"
        if row["question"] == question(*SUMS[2]):  # wrong, and no answer has a majority
            row["answer"] = "1000"
            row["response"] += f" No: the answer is \\boxed{{{rows.index(row)}}}."
    run = work(recipe(as_given(tmp_path / "given.jsonl", rows)), tmp_path)
    assert run.report("filter")["suspects"] == 1
    assert (
        cli.main(["--runs", str(tmp_path), "why", "test", "--suspects", "--json"], standalone_mode=False)
        is None
    )
    (found,) = json.loads(capsys.readouterr().out)["suspects"]
    assert (found["question"], found["reference"]) == (question(*SUMS[1]), "1000")
    assert (found["answer"], found["votes_for_it"], found["votes"]) == (str(sum(SUMS[1])), 6, 6)
    cli.main(["--runs", str(tmp_path), "why", "test", "--suspects"], standalone_mode=False)
    assert f"6 of 6 samples: {sum(SUMS[1])}" in capsys.readouterr().out


def test_given_traces_are_published_reported_and_shown(tmp_path: Path) -> None:
    rows = rows_of(SUMS)
    rows[0]["response"] = "<think>I do not know"
    given = as_given(tmp_path / "given.jsonl", rows, licence="mit")
    work(recipe(given), tmp_path)
    for words in (
        ("publish", "test", "--to", "OUT", "--with-traces"),
        ("report", "test"),
        ("status", "test"),
    ):
        result = retort(tmp_path, *(str(tmp_path / "out") if word == "OUT" else word for word in words))
        assert result.returncode == 0, result.stderr
    for words in (("show", "test", "--rejected"), ("why", "test"), ("check", str(tmp_path / "recipe.toml"))):
        (tmp_path / "recipe.toml").write_text(RECIPE.format(path=given["path"]))
        result = retort(tmp_path, *words)
        assert result.returncode == 0, result.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "24 traces existed before the run" in card
    assert "| teacher other | mit |" in card
    published = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert {(row["sampling"], row["prompt_hash"], row["teacher"]) for row in published} == {
        (None, None, "other")
    }
    assert pq.read_table(tmp_path / "out" / "traces").num_rows == len(rows)


RECIPE = """
run = "test"
[ingest]
held_out = 0.0
shard_size = 5
[[ingest.sources]]
kind = "traces"
path = "{path}"
teacher = "other"
licence = "mit"
"""


def test_a_whole_run_of_given_traces_ends_after_select_without_a_student(tmp_path: Path) -> None:
    given = as_given(tmp_path / "given.jsonl", rows_of(SUMS))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(path=given["path"]))
    result = retort(tmp_path, "run", str(tmp_path / "recipe.toml"))
    assert result.returncode == 0, result.stderr
    assert "next: retort --runs" in result.stderr
    assert "report test" in result.stderr
    assert open_run(tmp_path / "test").counts()["evaluate"].rows == 0


def test_traces_of_held_out_problems_train_no_student(tmp_path: Path) -> None:
    given = as_given(tmp_path / "given.jsonl", rows_of(SUMS))
    run = work(recipe(given, ingest={"sources": [given], "held_out": 0.4}), tmp_path)
    counts = report(run)
    assert counts["held_out_traces"] == 2 * counts["held_out"] > 0
    held_out = {p.id for p in run.problems if p.split == "held_out"}
    assert held_out.isdisjoint(trace.problem_id for trace in run.traces)


def test_what_a_killed_ingest_left_is_not_read(tmp_path: Path) -> None:
    given = recipe(as_given(tmp_path / "given.jsonl", rows_of(SUMS)))
    left = tmp_path / "test" / "ingest" / "traces" / "shard-00000.unsorted"
    left.parent.mkdir(parents=True)
    left.write_text("0000000000000000 given key [")
    assert report(work(given, tmp_path))["traces"] == 2 * len(SUMS)
    assert not left.exists()
