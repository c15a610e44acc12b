"""Formulas put together at random, sensible or not: a verdict or "cannot tell", never an exception."""

import random
from fractions import Fraction

import pytest

from filters.formula.equivalence import same
from filters.formula.lexer import Budget, TooLarge, Unreadable
from filters.formula.parser import parse
from filters.grade.compare import compare
from filters.policy import DEFAULT
from filters.text.normalize import fold

PLAIN = "0 1 2 3 10 -3 0.5 x y a e i I x_1 f(x) (1,2) [0,1)"
LEAVES = [
    *PLAIN.split(),
    *(r"\pi", r"\infty", r"\emptyset", r"\mathbb{R}", "5 cm", r"50\%", r"30^\circ"),
    *(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}x\\1\end{pmatrix}"),
    r"\begin{vmatrix}1&2\\3&4\end{vmatrix}",
]
BETWEEN = ["+", "-", "*", "/", "^", " ", r"\cdot ", "=", "<", r"\le ", ",", " and ", " or ", r"\cup ", ":"]
BETWEEN += [r"\pm ", r"\in ", r"\approx ", "!=", "|", r"\over "]
FUNCTIONS = r"\sin \ln \log_2 \det \max \gcd \arctan sqrt abs floor exp lcm factorial \cot \tanh \lg ceil"
AROUND = ["({})", "[{},{})", r"\{{{},{}\}}", "|{}|", "{}!", r"\frac{{{}}}{{{}}}", "{{{}}}^{{{}}}"]
AROUND += [r"\sqrt[{}]{{{}}}", r"\binom{{{}}}{{{}}}", r"\lfloor {}\rfloor ", r"\overline{{{}}}", "f'({})"]
AROUND += [
    r"\sum_{{n={}}}^{{{}}}{}",
    r"\prod_{{n=1}}^{{{}}}{}",
    r"\begin{{pmatrix}}{}&{}\\{}&{}\end{{pmatrix}}",
]
AROUND += [f"{name}({{}}{',{}' * extra})" for name in FUNCTIONS.split() for extra in range(3)]


def formula(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(LEAVES)
    if rng.random() < 0.4:
        return formula(rng, depth - 1) + rng.choice(BETWEEN) + formula(rng, depth - 1)
    frame = rng.choice(AROUND)
    return frame.format(*(formula(rng, depth - 1) for _ in range(frame.replace("{{", "").count("{}"))))


@pytest.mark.parametrize("seed", range(20))
def test_no_formula_raises_and_each_is_itself_or_cannot_be_told(seed):
    rng = random.Random(seed)
    for _ in range(50):
        gold = formula(rng, rng.randint(1, 4))
        other = rng.choice([formula(rng, 3), gold.replace("1", "1.0"), gold.replace("x", "y"), f"({gold})"])
        assert compare(gold, other, DEFAULT).same in (True, False, None)
        assert compare(gold, gold, DEFAULT).same in (True, None), gold


@pytest.mark.parametrize("seed", range(20))
def test_a_formula_is_never_unlike_once_itself(seed):
    """By its values: the two trees are not spelled alike. What holds infinity is compared by spelling."""
    rng = random.Random(seed)
    read = 0
    for _ in range(50):
        text = fold(formula(rng, rng.randint(1, 3)))
        try:
            tree = parse(text)
            same_value = same(tree, ("mul", ("num", Fraction(1)), tree), Budget())
        except (Unreadable, TooLarge):
            continue
        read += 1
        assert "∞" in text or same_value is not False, text
    assert read > 5
