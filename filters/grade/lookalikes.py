r"""Texts that compare as equal formulas, although one is no formula or its order matters.

H2O and HO2 are no products, 2021-03-05 and 2021-05-03 are no differences, "and" is not "or" although both
separate the parts of a list, and \vec a \times \vec b is not \vec b \times \vec a.
"""

from __future__ import annotations

import re

from filters.grade.numbers import split_unit

Pair = tuple[str, str]  # a reference and an answer

# Products by their letters, but hardly meant as such: H2O, A1, x2 for x^2, IV. But 1e5 and \frac12 are none.
_CODE = re.compile(
    r"(?<![\\_A-Za-z])(?<!_\{)(?!(?<=\d)[eE])(?:[A-Za-z]|[A-Z][A-Za-z]*)\d|\A[A-Z]{2}\Z", re.ASCII
)
_SERIES = re.compile(r"\d+(?:\s?-\s?\d+)+|\d+\s?/\s?\d+\s?/\s?\d+", re.ASCII)  # 10-15, 1/2/2021
_CONNECTIVE = re.compile(r"(\\land|\\wedge|\band\b)|\\lor|\\vee|\bor\b")
_NEGATED = re.compile(r"\\(?:overline|bar)\s?\{[^{}i]*[A-Za-z][^{}i]*[-+*][^{}i]*\}")  # not of a+bi
_SYMBOL = re.compile(r"\\(?:land|wedge|lor|vee)(?![A-Za-z])")
_DOMAIN = re.compile(r"∈\s?(?:\\mathbb\s?)?\{?\s?([A-Z])\s?\}?\s?((?:[_^]\s?(?:\{[^{}]*\}|.)|[+*])?)")
_VECTOR = r"\\(?:vec|overrightarrow|hat|mathbf|boldsymbol|bm)(?:\s?\{[^{}]{1,20}\}|\s[A-Za-z])"
_CROSS_PRODUCT = re.compile(rf"{_VECTOR}\s?\\times\s?{_VECTOR}")

# Spelled labels of a function of another label: the conjugate of z, sin A of A, f(x) of x.
_FUNCTION_OF = re.compile(
    r"(?:overline|bar|hat|neg|lnot|log|ln|lg|exp|(?:arc)?(?:sin|cos|tan|cot|sec|csc)|[A-Za-z]'{0,2}\()(.+?)\)?"
)


def are_lookalikes(written: Pair, normalized: Pair, equal: bool) -> bool:
    """Whether texts that compared as equal, or as not, may mean the opposite."""
    has_code = any(map(_CODE.search, normalized))
    if not equal:
        return has_code and _differ_in_marks(*normalized)
    if _is_other_domain(*normalized):
        return True
    return has_code or _is_other_series(*normalized) or _is_other_logic(*written) or _is_reordered(*written)


def is_function_of(label: str, other: str) -> bool:
    """Whether a label names a function of what the other names, which has another value."""
    found = _FUNCTION_OF.fullmatch(label)
    return found is not None and found[1] == other


def _differ_in_marks(reference: str, answer: str) -> bool:
    """Whether two texts differ in the marks of indices and powers only: x^2 and x2."""
    a, b = (re.sub(r"[\s_^{}]", "", text) for text in (reference, answer))
    return a == b


def _is_other_series(reference: str, answer: str) -> bool:
    """Whether a reference is a date, a range or a score, and the answer has other numbers."""
    series, other = split_unit(reference)[0], split_unit(answer)[0]
    return bool(_SERIES.fullmatch(series)) and _numbers(series) != _numbers(other)


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _is_other_domain(reference: str, answer: str) -> bool:
    """Whether both texts name the domain of a variable, but not the same: k ∈ Z and k ∈ N."""
    a, b = (set(_DOMAIN.findall(text)) for text in (reference, answer))
    return bool(a and b and a != b)


def _is_other_logic(reference: str, answer: str) -> bool:
    """Whether one text has "and" where the other has "or", or a bar over a sum, which negates it in logic.

    In words both may list solutions: x = 1 or x = 2. A symbol, or both words in one text, is meant.
    """
    if len(_NEGATED.findall(reference)) != len(_NEGATED.findall(answer)):
        return True
    a, b = ([bool(match[1]) for match in _CONNECTIVE.finditer(text)] for text in (reference, answer))
    is_meant = len(set(a)) > 1 or (_SYMBOL.search(reference) and _SYMBOL.search(answer))
    return bool(a and b and a != b and is_meant)


def _is_reordered(reference: str, answer: str) -> bool:
    """Whether the first products of two vectors differ."""
    a, b = (_CROSS_PRODUCT.search(text) for text in (reference, answer))
    return _without_braces(a) != _without_braces(b)


def _without_braces(found: re.Match[str] | None) -> str:
    return re.sub(r"[\s{}]", "", found[0]) if found else ""
