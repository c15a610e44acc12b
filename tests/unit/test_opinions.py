"""What a judge's answer says, and when a judge is asked."""

import json
from pathlib import Path

import pytest

from filters.grade.grader import TEXT_LIMIT
from filters.result import EVIDENCE_LIMIT
from pipeline.engine.shard import Shard
from pipeline.filter.judge_verdict import findings, is_judged, opinion_id, read_verdict
from pipeline.rows import JudgeVerdict

CASES = [
    json.loads(line) for line in Path("tests/cases/judge_verdicts.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["answer"][-40:])
def test_only_a_last_line_in_the_form_asked_for_is_a_verdict(case: dict[str, str]) -> None:
    said = read_verdict(case["answer"], case.get("finish_reason", "stop"))
    assert said == (case["outcome"], case["reason"])


@pytest.mark.parametrize("line", ["VERDICT" + ":" * 10**6, "*" * 10**6, "\n" * 10**6, "verdict " * 10**5])
def test_a_hostile_answer_is_read_in_no_time_and_tells_nothing(line: str) -> None:
    assert read_verdict(line, "stop") == ("unknown", "unclear")


def test_a_judge_is_asked_only_where_there_is_something_to_compare() -> None:
    assert is_judged("free", "Paris", "It is Paris.")
    assert not is_judged("text", "Paris", "It is Paris.")
    assert not is_judged("free", None, "It is Paris.")
    assert not is_judged("free", "Paris", " \n")
    assert not is_judged("free", "Paris", "x" * (TEXT_LIMIT + 1))


def test_texts_that_differ_anywhere_have_opinions_of_their_own() -> None:
    texts = [("a", "b", "c"), ("ab", "", "c"), ("a", None, "bc"), ("a", "b", "c ")]
    assert len({opinion_id(*three) for three in texts}) == len(texts)


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
        id="a", outcome="failed", reason="wrong", answer="x" * 999 + "VERDICT: incorrect", **whole
    )
    failed = JudgeVerdict(
        id="b", outcome="undecided", reason="judge_failed", answer="", error="HTTP 400", **whole
    )
    shard = Shard(tmp_path, "s", JudgeVerdict, {})
    shard.write([said.model_dump(), failed.model_dump()])
    found = findings(shard)
    assert str(found["a"].evidence).endswith("xVERDICT: incorrect")
    assert len(str(found["a"].evidence)) == EVIDENCE_LIMIT
    assert (found["b"].outcome, found["b"].evidence) == ("unknown", "HTTP 400")
