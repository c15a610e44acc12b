"""Scores and the metrics computed from them: closed forms, ties, pairs."""

import math

import numpy as np
import pytest

from filters.policy import Policy
from pipeline.evaluate.metrics import comparisons, ks, lost, lost_sentence, majority, pass_at_k, summarise
from pipeline.evaluate.metrics import score as score_of
from pipeline.model_rows import Score
from pipeline.rows import Trace, Verdict
from tests.unit.filters.test_table import a_trace


def score(role: str, problem: str, correct: int, samples: int = 4, majority: float = 0) -> Score:
    return Score(
        id=f"held_out/{role}/{problem}", set="held_out", model_role=role, model="m", prompt="plain",
        problem_id=problem, source="s", samples=samples, correct=correct, majority=majority, undecided=0,
        truncated=1, malformed=2, failed=0, completion_tokens=40,
    )  # fmt: skip


def answers(*given: tuple[str | None, str], **changes: object) -> list[Trace]:
    """Traces with an answer, or none, and its verdict."""
    return [
        a_trace(
            response="" if answer is None else f"The answer is \\boxed{{{answer}}}.",
            verdicts=(Verdict(filter="correct", version=1, outcome=outcome, reason=""),),
            **changes,
        )
        for answer, outcome in given
    ]


def test_pass_at_1_is_the_mean_over_problems_and_shares_are_of_samples() -> None:
    (summary,) = summarise([score("base", "a", 4), score("base", "b", 1)])
    assert summary.pass_at[1].mean == pytest.approx(0.625)
    assert (summary.truncated, summary.malformed, summary.tokens) == (0.25, 0.5, 10)


@pytest.mark.parametrize(("failed", "tokens"), [(0, 10), (2, 20), (4, None)])
def test_tokens_are_a_mean_over_the_answers_that_came(failed: int, tokens: float | None) -> None:
    row = score("base", "a", 0).model_copy(update={"failed": failed, "completion_tokens": 40 * (failed < 4)})
    (summary,) = summarise([row])
    assert summary.tokens == tokens


def test_pass_at_k_is_the_share_of_k_subsets_with_a_correct_sample() -> None:
    for n, c, k in [(4, 0, 2), (4, 1, 2), (4, 3, 2), (4, 4, 4), (16, 3, 8), (64, 1, 64), (64, 0, 32)]:
        expected = 1 - math.comb(n - c, k) / math.comb(n, k)
        assert pass_at_k([n], [c], k)[0] == pytest.approx(expected), (n, c, k)
    assert pass_at_k([4, 8], [1, 1], 2) == pytest.approx([0.5, 0.25])  # each with its own n
    assert pass_at_k([4, 4], [1, 3], 1) == pytest.approx([0.25, 0.75])


def test_pass_at_k_is_unbiased() -> None:
    rng = np.random.default_rng(4)
    p, n, k = 0.2, 8, 4
    estimates = pass_at_k([n] * 40_000, list(rng.binomial(n, p, 40_000)), k)
    assert estimates.mean() == pytest.approx(1 - (1 - p) ** k, abs=0.005)


def test_k_is_at_most_the_samples_that_every_problem_has() -> None:
    assert [ks([1]), ks([2, 3]), ks([4, 7]), ks([8]), ks([64, 10])] == [
        [1], [1, 2], [1, 2, 4], [1, 2, 4, 8], [1, 2, 4, 8],
    ]  # fmt: skip
    (summary,) = summarise([score("base", "a", 1), score("base", "b", 0, majority=0.5)])
    assert {k: e.mean for k, e in summary.pass_at.items()} == pytest.approx({1: 0.125, 2: 0.25, 4: 0.5})
    assert summary.majority.mean == 0.25


def test_the_majority_counts_classes_shares_ties_and_ignores_missing_answers() -> None:
    assert majority(answers(("1/2", "passed"), ("0.5", "passed"), ("3", "failed"), ("7", "failed"))) == 1
    assert majority(answers(("3", "failed"), ("3", "failed"), ("1/2", "passed"))) == 0
    assert majority(answers(("1/2", "passed"), ("3", "failed"))) == 0.5
    assert majority(answers(("2", "passed"), ("3", "failed"), ("4", "failed"))) == pytest.approx(1 / 3)
    assert majority(answers(("2", "passed"), (None, "failed"), (None, "failed"))) == 1
    assert majority(answers((None, "failed"))) == 0
    assert majority(answers(("2", "passed"), ("2", "passed"), finish_reason="length")) == 0


def test_votes_are_equal_by_the_parameters_of_the_rule_correct() -> None:
    rounded, other = [("0.333", "passed")] * 2 + [("1/3", "passed")] * 2, [("0.25", "failed")] * 3
    assert majority(answers(*rounded, *other)) == 0
    traces = answers(*rounded, *other)
    assert majority(traces, Policy(rounding_digits=3)) == 1
    assert score_of("s", "base", "m", traces, policy=Policy(rounding_digits=3)).majority == 1


def test_a_score_counts_the_samples_of_one_problem() -> None:
    traces = answers(("2", "passed"), ("2", "passed"), ("3", "failed"), ("x", "undecided"))
    made = score_of("aime", "student", "m", traces)
    assert made.id == f"aime/student/{traces[0].problem_id}"
    assert (made.samples, made.correct, made.undecided, made.majority) == (4, 2, 1, 1)


def test_a_difference_and_the_retention_are_paired_problem_by_problem() -> None:
    base = [score("base", str(i), i % 4) for i in range(40)]
    teacher = [score("teacher", str(i), 2 * (i % 2) + 2) for i in range(80)]
    student = [score("student", str(i), i % 2 + 1) for i in reversed(range(40))]
    compared = {c.other: c for c in comparisons(base + teacher + student)}
    assert list(compared) == ["base", "teacher"]
    assert compared["base"].retention is None
    assert compared["teacher"].problems == 40
    assert compared["teacher"].difference.mean == pytest.approx(-0.375)
    assert compared["teacher"].retention == pytest.approx((0.5, 0.5, 0.5))  # half as often on every problem
    assert compared["teacher"].difference.low < -0.375 < compared["teacher"].difference.high


def test_without_a_student_nothing_is_compared() -> None:
    assert comparisons([score("teacher", "a", 1)]) == []


def test_a_set_on_which_the_student_is_worse_than_the_base_is_lost() -> None:
    def in_set(name: str, role: str, correct: int) -> list[Score]:
        rows = [score(role, f"p{i}", correct) for i in range(30)]
        return [row.model_copy(update={"set": name, "id": f"{name}/{row.id}"}) for row in rows]

    won = in_set("math500", "base", 1) + in_set("math500", "student", 3)
    down = in_set("gpqa_diamond", "base", 3) + in_set("gpqa_diamond", "student", 1)
    same = in_set("aime24", "base", 2) + in_set("aime24", "student", 2) + in_set("aime24", "teacher", 4)
    assert [c.set for c in lost(comparisons(won + down + same))] == ["gpqa_diamond"]
    assert lost_sentence(comparisons(won + down)) == "lost by training: gpqa_diamond (-50.0 points)"
    assert lost_sentence(comparisons(won + same)) == "lost by training: nothing that these sets show"
    assert lost_sentence(comparisons(down)) == ""
