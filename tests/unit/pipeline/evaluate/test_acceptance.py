"""The table of drafts: shares of tokens, not means of shares, and the length that follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.acceptance import accepted_length, table
from pipeline.model_rows import DraftScore


def row(
    problem: int, tokens: int, accepted: float, role: str = "student", teacher: str = "teacher"
) -> DraftScore:
    return DraftScore(
        id=f"held_out/{teacher}/{role}/{problem}",
        set="held_out",
        teacher=teacher,
        model_role=role,
        problem_id=str(problem),
        tokens=tokens,
        accepted=accepted,
        same=tokens // 2,
    )


@pytest.mark.parametrize(("alpha", "expected"), [(0, 1), (1, 5), (0.5, 1.9375)])
def test_the_accepted_length_is_that_of_the_paper(alpha: float, expected: float) -> None:
    assert accepted_length(alpha, 4) == pytest.approx(expected)
    if alpha < 1:
        assert accepted_length(alpha, 4) == pytest.approx((1 - alpha**5) / (1 - alpha))


def test_the_accepted_length_is_the_mean_of_simulated_passes() -> None:
    accepted = np.random.default_rng(0).random((100_000, 3)) < 0.7
    passes = 1 + np.cumprod(accepted, axis=1).sum(1)
    assert accepted_length(0.7, 3) == pytest.approx(passes.mean(), abs=0.02)


def test_long_answers_count_by_their_tokens() -> None:
    (line,) = table([row(0, 100, 90), row(1, 10, 1)], 4)
    assert line.acceptance.mean == pytest.approx(91 / 110)
    assert (line.problems, line.tokens, line.same) == (2, 110, 0.5)
    low, high = line.acceptance[1:]
    assert low <= 91 / 110 <= high
    assert line.accepted == pytest.approx([accepted_length(each, 4) for each in line.acceptance])


def test_each_draft_of_each_teacher_is_a_line() -> None:
    names = [(teacher, role) for teacher in ("teacher-a", "teacher-b") for role in ("base", "student")]
    rows = [row(0, 10, 5, role, teacher) for teacher, role in names]
    assert [(line.teacher, line.model_role) for line in table(rows, 2)] == names
