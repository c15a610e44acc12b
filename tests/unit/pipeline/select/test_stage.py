import pytest

from pipeline.config.select import Select
from pipeline.errors import UserError
from pipeline.rows import Logprobs, Sampling, Trace, Verdict
from pipeline.select.chat_format import assistant_text, confidence, response_only
from pipeline.select.choices import pass_rate
from pipeline.select.choose import choose
from pipeline.select.stage import LEFT_OUT, SELECT
from tests import tiny_student


def trace(problem: str, sample: int, reasoning: str | None = "1 + 1 = 2", response: str = "2") -> Trace:
    return Trace(
        id=f"{problem}-{sample}", problem_id=problem, sample=sample, question="1 + 1?", reference="2",
        answer_type="math", source="s", teacher="t", prompt="p", prompt_hash="h", seed=1, reasoning=reasoning,
        sampling=Sampling(temperature=1, top_p=1, max_tokens=9), response=response, finish_reason="stop",
        prompt_tokens=1, completion_tokens=1,
    )  # fmt: skip


def chosen(most: int, *traces: Trace, **settings: str) -> tuple[list[str], dict[str, int]]:
    select = Select.model_validate({"per_problem": most, **settings})
    report = dict.fromkeys((*LEFT_OUT, "reasoning_not_taught"), 0)
    return [t.id for t in choose(traces, select, report)], {name: n for name, n in report.items() if n}


def test_at_most_k_different_traces_of_a_problem_are_chosen() -> None:
    ids, report = chosen(2, trace("a", 0), trace("a", 1), trace("a", 2, "x"), trace("a", 3, "y"))
    assert ids == ["a-0", "a-2"]
    assert report == {"same_text": 1, "over_per_problem": 1}


def test_a_trace_without_reasoning_or_answer_is_left_out() -> None:
    ids, report = chosen(2, trace("a", 0, None), trace("a", 1, response=""), trace("a", 2))
    assert ids == ["a-2"]
    assert report == {"without_reasoning": 1, "without_answer": 1}


def test_the_reasoning_is_in_tags_before_the_response() -> None:
    assert assistant_text(trace("a", 0)) == "<think>\n1 + 1 = 2\n</think>\n\n2"


def test_without_tags_the_response_alone_is_taught() -> None:
    plain, apart = trace("a", 0, None, "1 + 1 is 2."), trace("a", 1, "x", "It is 2.")
    same, unanswered = trace("a", 2, "y", "It is 2."), trace("a", 3, "z", "")
    ids, report = chosen(4, plain, apart, same, unanswered, reasoning="none")
    assert ids == ["a-0", "a-1"]
    assert report == {"without_answer": 1, "same_text": 1, "reasoning_not_taught": 1}
    assert [assistant_text(response_only(t)) for t in (plain, apart)] == ["1 + 1 is 2.", "It is 2."]


def test_reasoning_that_is_not_taught_does_not_affect_the_preference() -> None:
    long = trace("a", 0, "x" * 900, "It is 2.").model_copy(update={"completion_tokens": 100})
    short = trace("a", 1, None, "So 1 + 1 is 2.").model_copy(update={"completion_tokens": 9})
    assert chosen(1, short, long, prefer="short", reasoning="none")[0] == ["a-0"]
    pair = sure(0, -0.1, -0.9), sure(1, -0.9, -0.2)
    assert chosen(1, *pair, prefer="confident", reasoning="none")[0] == ["a-1"]
    means = {"reasoning_logprob": None, "response_logprob": -0.8}
    assert confidence(trace("a", 0, None).model_copy(update=means)) == pytest.approx(-0.8)


def sure(sample: int, *logprobs: float) -> Trace:
    kept = Logprobs(reasoning_tokens=1, logprobs=logprobs)
    return trace("a", sample, reasoning=f"reasoning {sample}").model_copy(update={"logprobs": kept})


def test_the_most_confident_traces_may_be_preferred() -> None:
    ids, _ = chosen(2, sure(0, -0.9, -0.5), sure(1, -0.1, -0.1), sure(2, -0.2), prefer="confident")
    assert ids == ["a-1", "a-2"]


def test_the_shortest_traces_may_be_preferred() -> None:
    lengths = [
        trace("a", i, f"t{i}").model_copy(update={"completion_tokens": n}) for i, n in enumerate((9, 3, 5))
    ]
    assert chosen(2, *lengths, prefer="short")[0] == ["a-1", "a-2"]


def test_preferring_confident_traces_needs_log_probabilities() -> None:
    with pytest.raises(UserError, match=r"trace a-0 has no log-probabilities: set generate\.logprobs"):
        chosen(2, trace("a", 0), prefer="confident")


def test_confidence_is_the_mean_over_all_tokens() -> None:
    assert confidence(sure(0, -0.5, -0.1)) == pytest.approx(-0.3)
    means = {"reasoning": "x" * 30, "response": "y" * 10, "reasoning_logprob": -0.4, "response_logprob": -0.8}
    assert confidence(trace("a", 0).model_copy(update=means)) == pytest.approx(-0.5)
    assert confidence(trace("a", 0)) is None


def test_the_pass_rate_ignores_undecided_samples() -> None:
    def graded(outcome: str) -> Trace:
        verdict = Verdict.model_validate(
            {"filter": "correct", "version": 1, "outcome": outcome, "reason": ""}
        )
        return trace("a", 0).model_copy(update={"verdicts": (verdict,)})

    assert pass_rate([graded("passed"), graded("failed"), graded("undecided")]) == 0.5
    assert pass_rate([graded("undecided")]) is None


def test_preferring_confident_traces_without_log_probabilities_is_refused_before_any_request() -> None:
    recipe = tiny_student.recipe()
    confident = recipe.model_copy(update={"select": Select(prefer="confident")})
    with pytest.raises(UserError, match=r"generate\.logprobs = true"):
        SELECT.check(confident)
    kept = recipe.generate.model_copy(update={"logprobs": True})
    SELECT.check(confident.model_copy(update={"generate": kept}))
