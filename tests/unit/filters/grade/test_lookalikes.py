"""Answers that only look equal, or only look different: units, codes, dates, logic, symbols and lists."""

import pytest

from filters.grade.compare import compare
from filters.policy import DEFAULT
from filters.rules.correct import grade_response


def same(reference, answer):
    return compare(reference, answer, DEFAULT).equal


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("5 square meters", "5 m^2", True),
        ("5 square units", "5", True),
        ("5 cubic cm", "5 cm^3", True),
        (r"5\pi", r"5\pi square units", True),
        ("5 US dollars", "$5", True),
        ("5 meters", "5 square meters", False),
        ("5 m^2", "5 cubic meters", False),
        ("5 miles", "5 nautical miles", None),
        ("5 years", "5 light years", None),
    ],
)
def test_a_unit_of_two_words_is_read_as_a_whole(reference, answer, equal):
    assert same(reference, answer) is equal


def test_the_last_number_keeps_its_square_or_cubic_unit():
    assert grade_response("5 m^2", "Its size is 5 cubic meters.", "math").outcome == "failed"
    assert grade_response("5 m^3", "Its size is 5 cubic meters.", "math").outcome == "passed"


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        (r"p \land q", r"p \lor q", None),
        (r"(p \land q) \lor r", r"(p \lor q) \land r", None),
        ("(p and q) or r", "(p or q) and r", None),
        (r"p \land q", r"q \land p", True),
        (r"x = 1 \lor x = 2", "x = 1 and x = 2", True),
    ],
)
def test_and_in_place_of_or_is_never_correct_in_logic(reference, answer, equal):
    assert same(reference, answer) is equal


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("2021-03-05", "2021-05-03", None),
        ("2/3/2020", "4/6/2020", None),
        ("10-15", "20-25", None),
        ("10-15", "-5", None),
        ("10-15", "10-16", False),
        ("01/02/2024", "1/2/2024", True),
        ("10-15 minutes", "10 - 15", True),
        ("-5", "10-15", True),
    ],
)
def test_a_date_or_a_range_is_not_computed(reference, answer, equal):
    assert same(reference, answer) is equal


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("14:30", "2:30 PM", True),
        ("12:15 AM", "0:15", True),
        ("2:30 PM", "2:30", True),
        ("14:30", "2:30 AM", False),
        ("12:00 AM", "12:00 PM", False),
    ],
)
def test_times_of_12_and_24_hours_are_compared(reference, answer, equal):
    assert same(reference, answer) is equal


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("C6H12O6", "C12H6O6"),
        ("H2O", "HO2"),
        ("2x+1", "x2+1"),
        ("x^2+1", "x2+1"),
        ("a_1", "a1"),
        ("IV", "VI"),
        ("A1", "1A"),
    ],
)
def test_codes_with_letters_are_no_products(reference, answer):
    assert same(reference, answer) is None
    assert same(reference, reference) is True
    assert same("5 m^2", "5 m2") is same("5m3", "5 m^3") is not same("5 m2", "5 m3")
    assert same("100000", "1e5") is same("12", r"\frac{24}2") is same("x_{12}", "x_12") is True


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("5 m", "5㎞", False),
        ("5㎡", "5㎥", False),
        ("5℃", "5℉", False),
        ("5", "\N{HEAVY MINUS SIGN}5", False),
        ("23", "2✖3", False),
        ("23", "2☆3", None),
        ("5 kg", "5㎏", True),
        ("5 m^2", "5㎡", True),
        ("5 °C", "5℃", True),
        ("5", "✅ 5", True),
    ],
)
def test_a_symbol_in_one_character_keeps_its_meaning(reference, answer, equal):
    assert same(reference, answer) is equal


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("5 mW", "5 MW", False),
        ("5 MHz", "5 mHz", None),
        ("5 mm", "5 Mm", None),
        ("5 mm", "5 mM", None),
        ("5 MHz", "5000000 Hz", True),
        ("5 mhz", "5 MHz", True),
        ("2 MPa", "2000 kPa", True),
        ("5 CM", "5 cm", True),
        ("5 ML", "5 kg", None),
    ],
)
def test_the_case_of_a_prefix_is_milli_or_mega(reference, answer, equal):
    assert same(reference, answer) is equal


def test_a_double_factorial_is_not_a_factorial_twice():
    assert same("720!", "6!!") is same("15", "5!!") is None
    assert same("720!", "(6!)!") is same("5!!", "5!!") is True


@pytest.mark.parametrize(
    ("reference", "response", "outcome"),
    [
        ("1/3", "0.333...", "passed"),
        ("1/3", "The answer is 0.333...", "passed"),
        ("2/3", "So we get 0.666... of it, which is 0.666...", "passed"),
        ("1.4", "1.4...", "undecided"),
        ("3.14", r"\boxed{3.14...}", "undecided"),
        ("1, 2, 3", "1, 2, 3, ...", "failed"),
        ("1, 2, 3", "The answer is 1, 2, 3.", "passed"),
    ],
)
def test_three_dots_after_a_number_are_part_of_the_answer(reference, response, outcome):
    assert grade_response(reference, response, "math").outcome == outcome


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        (r"\{\{1\}\}", r"\{1\}", None),
        (r"\{\emptyset,\{1\}\}", r"\{\emptyset,1\}", None),
        (r"\{\{1,2\},\{3\}\}", r"\{\{1,2\},3\}", None),
        (r"\{\{1,2\},\{3\}\}", r"\{\{3\},\{2,1\}\}", True),
        (r"\{1\}", "1", True),
    ],
)
def test_a_set_in_a_set_is_not_its_element(reference, answer, equal):
    assert same(reference, answer) is equal


def test_a_cross_product_in_another_order_is_never_correct():
    assert same(r"\vec a \times \vec b", r"\vec b \times \vec a") is None
    assert same(r"\mathbf{a} \times \mathbf{b}", r"\mathbf{b}\times\mathbf{a}") is None
    assert same(r"\vec{a} \times \vec{b}", r"\vec a \times \vec b") is True
    assert same(r"l \times w", r"w \times l") is True


def test_a_remark_that_changes_the_number_is_no_mere_remark():
    assert same("7 (remainder 2)", "7 (remainder 3)") is not True
    assert same("3 (modulo 7)", "3 (modulo 5)") is not True
    assert same("5 (minutes)", "5 (hours)") is same("5 minutes", "5 (hours)") is False
    for answer in ("5 (thousand)", "5 (negative)", "5 (squared)", "5 (percent)"):
        assert grade_response("5", answer, "math").outcome != "passed", answer
    assert same("x > 1", "x > 1 (except x = 3)") is not True
    for reference, answer in (
        ("12", "12 (twelve)"),
        ("12 hours", "12 (hours)"),
        (r"\frac{8}{15}", r"\frac{8}{15} (approximately 0.533)"),
        ("-5", "-5 (minus five)"),
    ):
        assert same(reference, answer) is True, answer


def test_groups_of_another_country_are_not_incorrect():
    assert same("1234567", "12,34,567") is same("1000", "1.000,00") is None
    assert same("1234568", "12,34,567") is same("1000", "1.000,01") is False
    assert same("12, 34, 567", "12,34,567") is True


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("5000000", "$5 million", True),
        ("$5 million", "5,000,000 dollars", True),
        ("2 billion people", "2000000000", True),
        ("60", "5 dozen eggs", True),
        ("5", "5 dozen eggs", False),
        ("5000000 dollars", "5 million euros", False),
        ("500", "Rs 500", True),
        ("500 rupees", "Rs.500", True),
        ("500", "RM500", True),
        (r"\frac{3}{2}", r"\frac{1}{2}3", True),
        (r"\frac{1}{23}", r"\frac{1}{2}3", False),
    ],
)
def test_millions_of_something_and_amounts_of_money_are_numbers(reference, answer, equal):
    assert same(reference, answer) is equal


def test_spaces_may_group_the_digits_before_a_decimal_comma():
    assert grade_response("12345.67", "12\u202f345,67 €", "number").outcome == "passed"


def test_words_that_change_a_number_are_no_unit():
    for answer in (
        "5 choose two",
        "5 point two",
        "5 root three",
        "5 permille",
        "5 ppm",
        "5 quintillion",
        "5 lac",
    ):
        assert grade_response("5", answer, "math").outcome != "passed", answer
    assert same("5 points", "5") is same("5", "5 real roots") is True


MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        (MATRIX, "[[1, 2], [3, 4]]", True),
        (MATRIX, "((1, 2), (3, 4))", True),
        (MATRIX, "[[1, 3], [2, 4]]", False),
        (MATRIX, "[[1, 2, 3, 4]]", False),
        (MATRIX.replace("pmatrix", "vmatrix"), "[[1, 2], [3, 4]]", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "[1, 2]", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "[1, 2)", False),
    ],
)
def test_a_matrix_may_be_written_as_a_list_of_rows(reference, answer, equal):
    assert same(reference, answer) is equal


def test_log2_and_log10_are_logarithms_of_that_base():
    assert same(r"\log_2 3", "log2(3)") is same("2", "log10(100)") is True
    assert same(r"\log 6", "log2(3)") is False


def test_a_vector_in_unit_vectors_is_not_incorrect_for_its_coordinates():
    assert same(r"2\mathbf{i}+3\mathbf{j}", r"\langle 2, 3 \rangle") is None
    assert same(r"2\hat{i}+3\hat{j}", "(2, 3)") is None
    assert same("2+3i", "(2, 3)") is False


def test_a_bar_over_a_sum_of_letters_may_negate_it():
    for reference, answer, equal in (
        (r"\overline{A+B}", "A+B", None),
        ("p - q", r"\overline{p - q}", None),
        (r"\overline{A+B}", r"\overline{B+A}", True),
        (r"\overline{2+3i}", "2-3i", True),
    ):
        assert compare(reference, answer, DEFAULT).equal is equal, answer
