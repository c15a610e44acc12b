"""Formulas with different units of one quantity."""

from filters.grade import verify


def test_a_power_of_ten_may_stand_for_the_prefix_of_a_unit():
    for reference, answer in (
        (r"3.6 \times 10^{-3} \mathrm{~m}", "3.6 mm"),
        (r"2.0 \times 10^{5} \text{ Pa}", "200 kPa"),
        (r"2\sqrt{3} \text{ m}", r"200\sqrt{3} \text{ cm}"),
    ):
        assert verify(reference, answer).outcome == "correct", answer
    for reference, answer in ((r"3.6 \times 10^{-3} \mathrm{~m}", "36 mm"), (r"\sqrt{3} m", r"\sqrt{3} cm")):
        assert verify(reference, answer).outcome != "correct", answer
