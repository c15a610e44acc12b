"""select with [[select.mix]], over runs of real files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import parse_recipe
from pipeline.engine.execute import execute
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inspect.run import open_run
from pipeline.inspect.stage_summary import lines
from pipeline.rows import Example
from pipeline.select.stage import SELECT
from tests import small_run

CHAT = {"kind": "chat", "name": "a", "path": "a"}


def run_select(folder: Path, kept: int = 1, **select: Any) -> list[Example]:
    """Examples of a run of 3 x 4 problems with 3 traces each, of which the first `kept` are kept."""
    run = small_run.write_filtered(folder / "run", kept, select=select)
    assert execute(SELECT, run.recipe, run.path) == 0
    return list(Output(run.path / "select", Example).rows())


def chat_file(folder: Path, count: int) -> dict[str, Any]:
    rows = [{"question": f"What is word {n}?", "response": f"Word {n}."} for n in range(count)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = str(folder / "chat.jsonl")
    return {"kind": "chat", "name": "words", "path": path, "question": "question", "response": "response"}


def test_plain_examples_are_of_other_problems_and_without_reasoning(tmp_path: Path) -> None:
    examples = run_select(tmp_path, kept=3, mix=[{"kind": "plain", "share": 0.5}])
    by_kind: dict[str, set[str]] = {"plain": set(), "reasoning": set()}
    for example in examples:
        by_kind[example.kind].add(example.problem_id)
        assert ("<think>" in example.messages[-1].content) == (example.kind == "reasoning")
    assert all(by_kind.values())
    assert not by_kind["plain"] & by_kind["reasoning"]


def test_chat_examples_reach_their_share_and_all_counts_add_up(tmp_path: Path) -> None:
    mix = [{"kind": "plain", "share": 0.3}, chat_file(tmp_path, 40) | {"share": 0.4}]
    examples = run_select(tmp_path, kept=3, mix=mix)
    counts = Counter(example.kind for example in examples)
    assert counts["chat"] == pytest.approx(0.4 * len(examples), abs=2)
    assert len({example.id for example in examples}) == len(examples)
    report = open_run(tmp_path / "run").report("select")
    assert {kind: report[kind] for kind in counts} == counts
    assert report["train"] + report["validation"] == len(examples)
    left_out = ("without_reasoning", "without_answer", "same_text", "over_per_problem")
    assert report["kept"] == report["reasoning"] + report["plain"] + sum(report[name] for name in left_out)
    assert not (tmp_path / "run/select/mix").exists()
    words = report["chat_sets"]["words"]
    assert words["rows"] == words["usable"] == 40
    assert words["wanted"] == words["taken"] == counts["chat"]
    said = "\n".join(lines(open_run(tmp_path / "run"), "select"))
    assert f"{len(examples)} examples = " in said
    assert "words: 40 of 40 rows usable" in said


def test_chat_examples_come_on_top_of_max_examples(tmp_path: Path) -> None:
    examples = run_select(
        tmp_path, max_examples=4, validation=0, mix=[chat_file(tmp_path, 40) | {"share": 0.5}]
    )
    assert Counter(e.kind for e in examples)["reasoning"] == 4
    assert Counter(e.kind for e in examples)["chat"] == pytest.approx(4, abs=2)


def test_a_count_is_met_exactly_or_said_to_be_missed(tmp_path: Path) -> None:
    examples = run_select(tmp_path, mix=[chat_file(tmp_path, 40) | {"count": 7}])
    assert Counter(e.kind for e in examples)["chat"] == 7
    (tmp_path / "few").mkdir()
    examples = run_select(tmp_path / "few", mix=[chat_file(tmp_path, 5) | {"count": 7}])
    assert Counter(e.kind for e in examples)["chat"] == 5
    assert "5 taken of 7 wanted" in "\n".join(lines(open_run(tmp_path / "few" / "run"), "select"))


def test_equal_inputs_give_equal_rows(tmp_path: Path) -> None:
    given = [chat_file(tmp_path, 40) | {"share": 0.5}, {"kind": "plain", "share": 0.2}]
    assert run_select(tmp_path / "a", mix=given) == run_select(tmp_path / "b", mix=given)


def test_duplicates_held_out_problems_and_copies_of_evaluation_sets_stay_out(tmp_path: Path) -> None:
    given = chat_file(tmp_path, 3)
    known = "Find the smallest prime number that divides the sum of all odd squares below ninety nine"
    extra = [
        {"question": "What is word 1?", "response": "Word 1."},
        {"question": known, "response": "It is 3."},
    ]
    extra += [{"question": small_run.HELD_OUT, "response": "5"}, {"question": "", "response": "x"}]
    with (tmp_path / "chat.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in extra))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": known}) + "\n")
    against = [{"kind": "file", "path": str(tmp_path / "test.jsonl")}]
    tables = {"select": {"mix": [given | {"count": 9}]}, "filter": {"contamination": {"against": against}}}
    run = small_run.write_filtered(tmp_path / "run", 1, **tables)
    assert execute(SELECT, run.recipe, run.path) == 0
    report = open_run(run.path).report("select")
    assert report["chat_sets"]["words"] == {
        "rows": 7,
        "usable": 3,
        "same_text": 1,
        "contaminated": 1,
        "held_out_problem": 1,
        "empty_message": 1,
        "wanted": 9,
        "taken": 3,
    }
    assert report["chat_checked_against"] == "held-out problems (same question), test (n-grams)"


@pytest.mark.parametrize(
    ("select", "why"),
    [
        ({"mix": [{"kind": "plain", "share": 0.5}], "reasoning": "none"}, "needs reasoning"),
        ({"mix": [{"kind": "plain", "share": 0.3}] * 2}, "one is enough"),
        ({"mix": [{"kind": "plain", "share": 0.5}, CHAT | {"share": 0.5}]}, "1 or more"),
        ({"mix": [CHAT | {"count": 5}] * 2}, "two tables of mix are called 'a'"),
    ],
)
def test_impossible_mixes_are_refused(select: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse_recipe(small_run.RECIPE | {"run": "r", "select": select}, (), "here")
