"""Intervals: their coverage, and their values when nothing varies."""

import math

import numpy as np
import pytest

from pipeline.evaluate.bootstrap import Estimate, mean, means, ratio, ratios, resampled_means, tail

SETS = 2000  # simulated evaluations
RESAMPLES = 1000  # all sets share these resamples, but not their data
BETAS = {"hard": (0.5, 2.0), "even": (1.0, 1.0), "easy": (3.0, 1.0)}  # how problems differ: p ~ Beta(a, b)


def covered(estimates: list[Estimate] | list[Estimate | None], truth: float) -> float:
    """The fraction of intervals that contain the true value."""
    return sum(e is not None and e.low <= truth <= e.high for e in estimates) / len(estimates)


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize(("problems", "samples"), [(30, 8), (100, 4), (200, 1)])
def test_a_95_percent_interval_covers_the_true_value_93_to_97_times_in_100(
    kind: str, problems: int, samples: int
) -> None:
    a, b = BETAS[kind]
    rng = np.random.default_rng(problems)
    p = rng.beta(a, b, (problems, SETS))
    teacher = rng.binomial(samples, p) / samples
    student = rng.binomial(samples, p**1.5) / samples  # worse on every problem
    rate = a / (a + b)  # E[p]
    students = math.exp(sum(map(math.lgamma, (a + 1.5, a + b))) - sum(map(math.lgamma, (a, a + b + 1.5))))
    assert 0.93 <= covered(means(teacher, resamples=RESAMPLES), rate) <= 0.97
    assert 0.93 <= covered(means(student - teacher, -1, 1, RESAMPLES), students - rate) <= 0.97
    assert 0.93 <= covered(ratios(student, teacher, RESAMPLES), students / rate) <= 0.97


def test_all_columns_share_their_resamples() -> None:
    values = np.random.default_rng(0).random((50, 2))
    resampled = resampled_means(np.concatenate([values, values.sum(axis=1, keepdims=True)], axis=1), 3000)
    assert resampled.shape == (3000, 3)
    assert resampled[:, 2] == pytest.approx(resampled[:, 0] + resampled[:, 1])
    assert resampled.mean(axis=0)[:2] == pytest.approx(values.mean(axis=0), abs=0.01)
    assert resampled.std(axis=0)[:2] == pytest.approx(values.std(axis=0) / math.sqrt(50), rel=0.05)


def test_the_ends_of_an_interval_are_those_of_students_t() -> None:
    assert tail(10**6) == pytest.approx(0.025, abs=1e-5)
    for problems, t in ((10, 2.26216), (30, 2.04523), (100, 1.98422)):
        expected = 0.5 * math.erfc(t * math.sqrt(problems / (problems - 1)) / math.sqrt(2))
        assert tail(problems) == pytest.approx(expected, rel=0.02)


def test_equal_values_still_give_an_interval_with_a_width() -> None:
    assert mean([0.0] * 30) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 30)))
    assert mean([1.0] * 30) == pytest.approx((1, 0.025 ** (1 / 30), 1))
    same = mean([0.25] * 40, least=-1)
    assert 0.1 < same.low < 0.25 < same.high < 0.35
    assert mean([1.0]) == pytest.approx((1, 0.025, 1))  # one problem says nearly nothing


def test_few_problems_that_all_became_better_do_not_show_a_gain() -> None:
    for sign in (1, -1):
        ends = sorted(sign * end for end in mean([sign * 0.5, sign, sign, sign], least=-1)[1:])
        assert ends[0] < 0 < ends[1]
    assert mean([0.5] + [1.0] * 30, least=-1).low > 0.5
    rng, worse = np.random.default_rng(0), 0.3  # of all problems become incorrect, the others a little better
    drawn = rng.choice([0.25, 0.5, -1], (5, SETS), p=[0.35, 0.35, worse])  # a mean of -0.0375
    assert np.mean([each.low > 0 for each in means(drawn, -1, 1, RESAMPLES)]) <= 0.025


def test_a_ratio_to_a_mean_near_0_has_no_upper_end() -> None:
    half, none, one = np.full(50, 0.5), np.zeros(50), np.eye(50)[0]
    assert ratio(half, none) is None
    kept = ratio(half, one)
    assert kept is not None
    assert kept.mean == pytest.approx(25)
    assert kept.low < 25 < kept.high == math.inf
    assert ratio(none, one) == (0, 0, math.inf)


def test_the_same_values_give_the_same_interval() -> None:
    assert mean([0, 1, 1, 0.5]) == mean([0, 1, 1, 0.5])
