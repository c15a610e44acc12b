"""How a trace of an earlier result is stored now."""

import pytest

from pipeline.generate.valid_traces import _moved
from pipeline.rows import Sampling, Trace

TRACE = Trace(
    id="p-1-0000", problem_id="p", sample=0, question="q", reference="7", answer_type="math", source="s",
    teacher="t", prompt="plain", prompt_hash="h", seed=1, reasoning=None, response="7", finish_reason="stop",
    sampling=Sampling(temperature=1, top_p=1, max_tokens=9), prompt_tokens=1, completion_tokens=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "now", "generation", "expected"),
    [
        (None, None, None, None),
        (None, None, "1", "1"),  # as the teacher's folder said
        (None, 0, None, "0"),
        (None, 2, "1", "2"),
        (2, 2, "2", "2"),
        (2, 3, "2", "3"),
        (2, None, "2", None),
        (0, None, "0", None),
    ],
)
def test_the_generation_of_a_teacher_is_the_stated_one(
    before: int | None, now: int | None, generation: str | None, expected: str | None
) -> None:
    trace = TRACE.model_copy(update={"teacher_generation": generation})
    moved = _moved({1: 0}, [None, before], [now], trace)
    assert moved is not None
    assert (moved.id, moved.teacher_generation) == ("p-0-0000", expected)
