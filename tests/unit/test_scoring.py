import numpy as np
import pytest

from pipeline.rows import Score
from pipeline.scoring import bootstrap, difference, summarise


def score(subject: str, problem: str, correct: int) -> Score:
    return Score(
        id=f"{subject}/{problem}", subject=subject, model="m", prompt="plain", problem_id=problem, source="s",
        samples=4, correct=correct, unknown=0, truncated=1, malformed=2, failed=0, completion_tokens=40,
    )  # fmt: skip


def test_pass_at_1_is_the_mean_over_problems_and_shares_are_of_samples() -> None:
    (summary,) = summarise([score("base", "a", 4), score("base", "b", 1)])
    assert summary.pass_at_1[0] == pytest.approx(0.625)
    assert (summary.truncated, summary.malformed, summary.tokens) == (0.25, 0.5, 10)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        estimate = bootstrap(rng.binomial(4, rng.beta(1, 1, size=100)) / 4)  # type: ignore[arg-type]
        covered += estimate.low <= 0.5 <= estimate.high
    assert 88 <= covered <= 100


def test_a_difference_is_paired_problem_by_problem() -> None:
    base = [score("base", str(i), i % 4) for i in range(40)]
    student = [score("student", str(i), i % 4 + 1) for i in reversed(range(40))]
    estimate = difference(student, base)
    assert estimate == pytest.approx((0.25, 0.25, 0.25))


def test_the_same_scores_give_the_same_interval() -> None:
    assert bootstrap([0, 1, 1, 0.5]) == bootstrap([0, 1, 1, 0.5])
