"""The functions of formulas, twice under the same names: in floating point, and with many digits (mpmath).

Both take and return numbers of their library; what is undefined raises ArithmeticError or ValueError.
mpmath is loaded when the first value needs confirming.
"""

from __future__ import annotations

import cmath
import math
import threading
from fractions import Fraction
from typing import Any

GAMMA_LIMIT = 1e4  # of an argument

Library = dict[str, Any]


def _log(x: complex, base: complex | None = None) -> complex:
    return cmath.log(x) if base is None else cmath.log(x) / cmath.log(base)


def _root(x: complex, degree: complex) -> complex:
    """The principal root, but the real one of a negative number where the degree is odd."""
    if degree == 2:
        return cmath.sqrt(x)
    if x.imag == 0 > x.real and degree.imag == 0 and degree.real % 2 == 1:
        return -(abs(x) ** (1 / degree))
    return x ** (1 / degree)


def _gamma(x: complex) -> complex:
    if x.imag:
        raise ValueError("a factorial of a complex number")
    return complex(math.gamma(x.real))


def _number(x: Fraction | float) -> complex:
    return complex(x)


def _real(x: complex) -> float:
    if abs(x.imag) > 1e-12 * abs(x):
        raise ValueError("a real number is needed")
    return x.real


FLOATS: Library = {
    "cost": 1,  # of an operation
    "number": _number,
    "e": complex(math.e),
    "i": 1j,
    "I": 1j,
    "pi": lambda: complex(math.pi),
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "ln": _log,
    "log": _log,
    "lg": cmath.log10,
    "sqrt": _root,
    "abs": lambda x: complex(abs(x)),
    "conj": lambda x: x.conjugate(),
    "floor": lambda x: complex(math.floor(_real(x))),
    "ceil": lambda x: complex(math.ceil(_real(x))),
    "max": lambda *xs: complex(max(map(_real, xs))),
    "min": lambda *xs: complex(min(map(_real, xs))),
    "factorial": lambda x: _gamma(x + 1),
    "binom": lambda n, k: _gamma(n + 1) / _gamma(k + 1) / _gamma(n - k + 1),
}


class _Libraries(threading.local):
    """One set for each thread: mpmath changes a context's precision while it computes."""

    def __init__(self) -> None:
        self.by_digits: dict[int, Library] = {}


_libraries = _Libraries()


def digits(precision: int) -> Library:
    """The same with so many decimal digits, one for each thread."""
    found = _libraries.by_digits
    if precision not in found:
        found[precision] = _with_digits(precision)
    return found[precision]


def _with_digits(precision: int) -> Library:
    import mpmath

    mp = mpmath.MPContext()
    mp.dps = precision

    def number(x: Fraction | float) -> Any:
        return mp.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mp.mpf(x)

    def gamma(x: Any) -> Any:
        if x.imag or abs(x) > GAMMA_LIMIT:
            raise ValueError("a factorial out of bounds")
        return mp.gamma(x)

    def root(x: Any, degree: Any) -> Any:
        if degree == 2:
            return mp.sqrt(x)
        if x.imag == 0 > x.real and degree.imag == 0 and degree.real % 2 == 1:
            return -(abs(x) ** (1 / degree))
        return x ** (1 / degree)

    def real(x: Any) -> Any:
        if abs(x.imag) > 1e-40 * abs(x):
            raise ValueError("a real number is needed")
        return x.real

    return {
        "cost": 8,
        "least": mp.mpf(10) ** (20 - precision),  # what still shows well where it is added to 1
        "tiny": mp.mpf(10)
        ** (15 - precision // 2),  # the same in a function, whose value may begin with a square
        "number": number,
        "e": +mp.e,
        "i": mp.mpc(0, 1),
        "I": mp.mpc(0, 1),
        "pi": lambda: +mp.pi,
        **{name: getattr(mp, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
        **{f"arc{name}": getattr(mp, f"a{name}") for name in ("sin", "cos", "tan")},
        **{name: getattr(mp, name) for name in ("cot", "sec", "csc")},
        "ln": mp.log,
        "log": mp.log,
        "lg": mp.log10,
        "sqrt": root,
        "abs": abs,
        "conj": mp.conj,
        "floor": lambda x: mp.floor(real(x)),
        "ceil": lambda x: mp.ceil(real(x)),
        "max": lambda *xs: max(map(real, xs)),
        "min": lambda *xs: min(map(real, xs)),
        "factorial": lambda x: gamma(x + 1),
        "binom": lambda n, k: gamma(n + 1) / gamma(k + 1) / gamma(n - k + 1),
    }
