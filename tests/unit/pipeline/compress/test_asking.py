"""When an export counts as broken, by its reply to the question of the checks."""

from typing import Any

import pytest

from pipeline.compress.asking import Reference, Reply, faults

STUDENT = {"prompt_ids": [1, 2], "answer": "3", "ended": True, "logprob": -0.2, "stops": True}
REFERENCE = Reference.model_validate(STUDENT | {"messages": [], "answer_ids": [5, 2]})


def found(**changes: Any) -> list[str]:
    return list(faults(Reply.model_validate(STUDENT | changes), REFERENCE))


def test_another_text_of_nearly_the_same_likelihood_is_no_fault() -> None:
    assert found(answer="4", logprob=-0.9, ended=False) == []


def test_other_tokens_of_the_prompt_are_a_fault() -> None:
    (fault,) = found(prompt_ids=[1, 1, 2])
    assert "[1, 1, 2, ...] (3 tokens) in place of [1, 2, ...] (2 tokens)" in fault


@pytest.mark.parametrize("logprob", [-1.3, float("-inf"), float("nan")])
def test_spoilt_weights_are_a_fault(logprob: float) -> None:
    (fault,) = found(logprob=logprob)
    assert "log-probability" in fault


def test_an_export_that_does_not_stop_is_a_fault() -> None:
    assert found(stops=False) == ["it does not stop where the student's answer ends"]


def test_whether_it_stops_is_unknown_if_the_students_answer_did_not_end() -> None:
    unended = REFERENCE.model_copy(update={"stops": None})
    assert list(faults(Reply.model_validate(STUDENT | {"stops": None}), unended)) == []
