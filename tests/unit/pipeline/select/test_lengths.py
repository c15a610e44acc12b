import random

import pytest
from pydantic import ValidationError

from pipeline.config.select import LengthBand, Select
from pipeline.rows import Trace
from pipeline.select.lengths import draw, mix_of, quotas
from tests.unit.pipeline.select.test_stage import trace


@pytest.mark.parametrize(
    ("counts", "shares", "expected"),
    [
        ([50, 50], [1, 1], [50, 50]),
        ([50, 50], [0.3, 1], [21, 50]),  # 21 of 71 is the most that 30 % allow
        ([80, 20, 0], [0.5, 1, 1], [20, 20, 0]),
        ([80, 20], [0.5, 0.5], [20, 20]),
        ([10, 10, 10], [0.1, 0.3, 1], [1, 4, 10]),
        ([7, 0], [0.3, 1], [0, 0]),
        ([0, 0], [0.3, 1], [0, 0]),
    ],
)
def test_the_largest_set_within_all_shares_is_kept(
    counts: list[int], shares: list[float], expected: list[int]
) -> None:
    assert quotas(counts, shares) == expected


def test_no_larger_set_meets_the_shares() -> None:
    rng = random.Random(0)
    for _ in range(200):
        counts = [rng.randrange(30) for _ in range(3)]
        shares = [rng.randrange(1, 11) / 10, rng.randrange(1, 11) / 10, 1.0]
        kept = quotas(counts, shares)
        possible = [
            total
            for total in range(sum(counts) + 1)
            if sum(min(n, int(share * total + 1e-9)) for n, share in zip(counts, shares, strict=True))
            >= total
        ]
        assert sum(kept) == max(possible)
        assert all(k <= share * sum(kept) + 1e-9 for k, share in zip(kept, shares, strict=True))


def of_tokens(number: int, tokens: int) -> Trace:
    return trace("a", number).model_copy(update={"completion_tokens": tokens})


def test_which_examples_stay_does_not_depend_on_their_order() -> None:
    bands = (LengthBand(max_tokens=100, share=0.4), LengthBand(max_tokens=200, share=1))
    traces = [of_tokens(n, 50 if n < 60 else 150 if n < 90 else 900) for n in range(100)]
    examples = [draw(trace, bands, 1) for trace in traces]
    mix = mix_of(examples, bands, 1)
    kept = {trace.id for trace in traces if mix.keeps(trace)}
    assert kept == {trace.id for trace in reversed(traces) if mix_of(examples[::-1], bands, 1).keeps(trace)}
    sizes = [sum(trace.id in kept for trace in part) for part in (traces[:60], traces[60:90], traces[90:])]
    assert sizes == quotas([60, 30, 10], [0.4, 1, 1])
    other = mix_of([draw(trace, bands, 2) for trace in traces], bands, 2)
    assert {trace.id for trace in traces if other.keeps(trace)} != kept


def test_a_trace_is_in_the_first_band_that_it_fits_into() -> None:
    bands = (LengthBand(max_tokens=100, share=0.4), LengthBand(max_tokens=200, share=1))
    assert [draw(of_tokens(0, n), bands, 0).band for n in (1, 100, 101, 200, 201)] == [0, 0, 1, 1, 2]
    assert draw(of_tokens(0, 999), (*bands, LengthBand(share=0.1)), 0).band == 2


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([{"max_tokens": 9, "share": 0.5}, {"max_tokens": 5, "share": 1}], "must ascend"),
        ([{"share": 1}, {"share": 1}], "only the last band"),
        ([{"max_tokens": 9, "share": 0.5}, {"share": 0.4}], "less than 1"),
        ([{"max_tokens": 9, "share": 0}], "greater than 0"),
    ],
)
def test_bands_that_make_no_sense_are_refused(bands: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Select.model_validate({"lengths": bands})
