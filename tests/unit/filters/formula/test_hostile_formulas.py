"""Random formulas, sensible or not, never raise an exception."""

import random
from fractions import Fraction

import pytest

from filters.formula.equivalence import equivalent
from filters.formula.parser import parse_formula
from filters.formula.tree import Budget, TooLarge, UnsupportedFormula
from filters.grade.compare import compare
from filters.policy import DEFAULT
from filters.text.normalize import normalize

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
def test_no_formula_raises_and_each_equals_itself_or_is_undecided(seed):
    rng = random.Random(seed)
    for _ in range(50):
        reference = formula(rng, rng.randint(1, 4))
        other = rng.choice(
            [formula(rng, 3), reference.replace("1", "1.0"), reference.replace("x", "y"), f"({reference})"]
        )
        assert compare(reference, other, DEFAULT).equal in (True, False, None)
        assert compare(reference, reference, DEFAULT).equal in (True, None), reference


@pytest.mark.parametrize("seed", range(20))
def test_a_formula_never_differs_from_once_itself(seed):
    """Compares by values, since the two trees differ. Formulas with infinity are compared by spelling."""
    rng = random.Random(seed)
    read = 0
    for _ in range(50):
        text = normalize(formula(rng, rng.randint(1, 3)))
        try:
            tree = parse_formula(text)
            same_value = equivalent(tree, ("mul", ("num", Fraction(1)), tree), Budget())
        except (UnsupportedFormula, TooLarge):
            continue
        read += 1
        assert "∞" in text or same_value is not False, text
    assert read > 5


INFINITE = [r"\log_2 0", r"-\log_2 0", r"\frac{1}{\log_5 0}", r"\max(5, \log_2 0)", r"0 \cdot \log_2 0"]
INFINITE += [r"\frac{1}{\pi\cdot 10^{200}\cdot 10^{200}}"]


@pytest.mark.parametrize("reference", ["5", "5.12345", r"\sqrt{2}", r"\log_{10} 5", "x", "f(x)=x", "50%"])
@pytest.mark.parametrize("answer", INFINITE)
def test_an_infinite_value_equals_no_other_value(reference, answer):
    assert compare(reference, answer, DEFAULT).equal is not True
    assert compare(answer, reference, DEFAULT).equal is not True
