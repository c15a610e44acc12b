import pytest

from pipeline.config.endpoints import Teacher
from pipeline.generate.limits import Limits
from pipeline.generate.usage import EndpointUsage

TEACHER = Teacher(model="m", base_url="http://x/v1", price_per_mtok_in=1, price_per_mtok_out=2)


def used(
    prompt: int = 0, completion: int = 0, spend: float | None = None, uncounted: int = 0
) -> EndpointUsage:
    return EndpointUsage(
        teacher="m",
        requests=1,
        retries={},
        prompt_tokens=prompt,
        completion_tokens=completion,
        spend=spend,
        uncounted=uncounted,
    )


def limits(**most: float) -> Limits:
    return Limits(endpoints={"m": TEACHER}, most_tokens=100, **most)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("most", "usages", "reached"),
    [
        ({}, [used(10**9, 10**9)], False),
        ({"max_tokens_total": 30}, [used(10, 10)], False),
        ({"max_tokens_total": 30}, [used(10, 10), used(5, 5)], True),
        ({"max_cost": 3}, [used(10**6, 10**6 - 1)], False),
        ({"max_cost": 3}, [used(10**6, 10**6)], True),
        ({"max_cost": 3}, [used(10**6, 10**6, spend=0.5)], False),  # at the price of that time
        ({"max_tokens_total": 121}, [used(10, 10, uncounted=1)], False),
        ({"max_tokens_total": 120}, [used(10, 10, uncounted=1)], True),
    ],
)
def test_a_limit_counts_all_attempts_and_uncounted_responses_as_the_longest(
    most: dict[str, float], usages: list[EndpointUsage], reached: bool
) -> None:
    assert (limits(**most).reached(usages) is not None) == reached


def test_the_cost_of_a_teacher_that_the_recipe_no_longer_names_counts_too() -> None:
    former = used(10, 10, spend=2).model_copy(update={"teacher": "former"})
    assert limits().cost([former, used(10, 10, spend=1)]) == 3
    assert limits().cost([former.model_copy(update={"spend": None})]) == 0


def test_without_any_token_counts_no_limit_can_be_kept() -> None:
    assert limits().reached([used(uncounted=1)]) is None
    assert "no token counts" in (limits(max_cost=1).reached([used(uncounted=1)]) or "")
