from pipeline.rows import Sampling, Trace
from pipeline.stages.select import _choose, assistant_text


def trace(problem: str, sample: int, reasoning: str | None = "1 + 1 = 2", response: str = "2") -> Trace:
    return Trace(
        id=f"{problem}-{sample}", problem_id=problem, sample=sample, question="1 + 1?", reference="2",
        answer_type="math", source="s", teacher="t", prompt="p", prompt_hash="h", seed=1, reasoning=reasoning,
        sampling=Sampling(temperature=1, top_p=1, max_tokens=9), response=response, finish_reason="stop",
        prompt_tokens=1, completion_tokens=1,
    )  # fmt: skip


def chosen(most: int, *traces: Trace) -> tuple[list[str], dict[str, int]]:
    report = dict.fromkeys(("without_thought", "same_text", "over_per_problem"), 0)
    return [t.id for t in _choose(traces, most, report)], report


def test_at_most_k_different_traces_of_a_problem_are_chosen() -> None:
    ids, report = chosen(
        2, trace("a", 0), trace("a", 1), trace("a", 2, "x"), trace("a", 3, "y"), trace("b", 0)
    )
    assert ids == ["a-0", "a-2", "b-0"]
    assert report == {"without_thought": 0, "same_text": 1, "over_per_problem": 1}


def test_a_trace_without_thought_or_answer_teaches_nothing() -> None:
    ids, report = chosen(2, trace("a", 0, None), trace("a", 1, response=""), trace("a", 2))
    assert ids == ["a-2"]
    assert report["without_thought"] == 2


def test_the_thought_stands_in_its_tags_before_the_answer() -> None:
    assert assistant_text(trace("a", 0)) == "<think>\n1 + 1 = 2\n</think>\n\n2"
