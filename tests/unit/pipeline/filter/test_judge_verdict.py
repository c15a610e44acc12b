"""Reads an LLM judge's verdict, and decides which responses need a judge."""

import json
from pathlib import Path

import pytest

from filters.grade.grader import TEXT_LIMIT
from filters.result import EVIDENCE_LIMIT
from pipeline.engine.shard import Shard
from pipeline.filter.judge_verdict import needs_judge, read_verdict, results_by_key, verdict_key
from pipeline.rows import JudgeVerdict

CASES = [
    json.loads(line) for line in Path("tests/cases/judge_verdicts.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["answer"][-40:])
def test_only_a_last_line_in_the_requested_form_is_a_verdict(case: dict[str, str]) -> None:
    said = read_verdict(case["answer"], case.get("finish_reason", "stop"))
    assert said == (case["outcome"], case["reason"])


@pytest.mark.parametrize("line", ["VERDICT" + ":" * 10**6, "*" * 10**6, "\n" * 10**6, "verdict " * 10**5])
def test_a_hostile_response_is_read_quickly_and_is_undecided(line: str) -> None:
    assert read_verdict(line, "stop") == ("undecided", "unclear")


def test_only_a_free_text_response_with_a_reference_needs_a_judge() -> None:
    assert needs_judge("free", "Paris", "It is Paris.")
    assert not needs_judge("text", "Paris", "It is Paris.")
    assert not needs_judge("free", None, "It is Paris.")
    assert not needs_judge("free", "Paris", " \n")
    assert not needs_judge("free", "Paris", "x" * (TEXT_LIMIT + 1))


def test_texts_that_differ_anywhere_have_different_keys() -> None:
    texts = [("a", "b", "c"), ("ab", "", "c"), ("a", None, "bc"), ("a", "b", "c ")]
    assert len({verdict_key(*three) for three in texts}) == len(texts)


def test_the_evidence_is_the_end_of_the_answer_or_the_error(tmp_path: Path) -> None:
    whole = {
        "trace_id": "t",
        "model": "m",
        "prompt_hash": "h",
        "reasoning": None,
        "finish_reason": "stop",
        "prompt_tokens": None,
        "completion_tokens": None,
    }
    said = JudgeVerdict(
        id="a", outcome="failed", reason="incorrect", answer="x" * 999 + "VERDICT: incorrect", **whole
    )
    failed = JudgeVerdict(
        id="b", outcome="undecided", reason="judge_failed", answer="", error="HTTP 400", **whole
    )
    shard = Shard(tmp_path, "s", JudgeVerdict, {})
    shard.write([said.model_dump(), failed.model_dump()])
    results = results_by_key(shard)
    assert str(results["a"].evidence).endswith("xVERDICT: incorrect")
    assert len(str(results["a"].evidence)) == EVIDENCE_LIMIT
    assert (results["b"].outcome, results["b"].evidence) == ("undecided", "HTTP 400")
