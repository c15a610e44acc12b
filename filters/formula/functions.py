"""The functions of formulas, in floating point and with many digits (mpmath), under the same names.

Undefined values raise ArithmeticError or ValueError. mpmath is imported when a value first needs many digits.
"""

from __future__ import annotations

import cmath
import functools
import math
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_GAMMA_ARGUMENT = 1e4

Library = dict[str, Any]


def _library(
    module: Any, number: Callable[[Any], Any], gamma: Callable[[Any], Any], rounding: Any, epsilon: float
) -> Library:
    """Returns the functions over the numbers of `module`, cmath or an mpmath context.

    `rounding` has the functions floor and ceil. `epsilon` is the largest imaginary part of a real number,
    relative to its size.
    """

    def root(x: Any, degree: Any) -> Any:
        """The principal root, but the real root of a negative number for an odd degree."""
        if degree == 2:
            return module.sqrt(x)
        if x.imag == 0 > x.real and degree.imag == 0 and degree.real % 2 == 1:
            return -(abs(x) ** (1 / degree))
        return x ** (1 / degree)

    def real(x: Any) -> Any:
        if abs(x.imag) > epsilon * abs(x):
            raise ValueError("a real number is needed")
        return x.real

    return {
        "number": number,
        "pi": lambda: number(+module.pi),
        **{name: getattr(module, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
        **{f"arc{name}": getattr(module, f"a{name}") for name in ("sin", "cos", "tan")},
        "cot": lambda x: 1 / module.tan(x),
        "sec": lambda x: 1 / module.cos(x),
        "csc": lambda x: 1 / module.sin(x),
        "ln": module.log,
        "log": module.log,
        "lg": module.log10,
        "sqrt": root,
        "abs": lambda x: number(abs(x)),
        "conj": lambda x: x.conjugate(),
        "floor": lambda x: number(rounding.floor(real(x))),
        "ceil": lambda x: number(rounding.ceil(real(x))),
        "max": lambda *xs: number(max(map(real, xs))),
        "min": lambda *xs: number(min(map(real, xs))),
        "factorial": lambda x: gamma(x + 1),
        "binom": lambda n, k: gamma(n + 1) / gamma(k + 1) / gamma(n - k + 1),
        "e": module.e + number(0),
        **dict.fromkeys(("i", "I"), module.sqrt(number(-1))),
    }


def _float_gamma(x: complex) -> complex:
    if x.imag:
        raise ValueError("a factorial of a complex number")
    return complex(math.gamma(x.real))


FLOATS: Library = {
    **_library(cmath, complex, _float_gamma, math, epsilon=1e-12),
    "cost": 1,  # of an operation
}


def with_digits(digits: int) -> Library:
    """Returns the functions with this many decimal digits."""
    return _with_digits(digits, threading.get_ident())


@functools.lru_cache(maxsize=256)
def _with_digits(digits: int, thread: int) -> Library:
    """Builds a library for one thread, because mpmath changes a context's precision while it computes."""
    import mpmath

    mp = mpmath.MPContext()
    mp.dps = digits

    def number(x: Any) -> Any:
        return mp.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mp.mpf(x)

    def gamma(x: Any) -> Any:
        if x.imag or abs(x) > MAX_GAMMA_ARGUMENT:
            raise ValueError("a factorial out of bounds")
        return mp.gamma(x)

    return {
        **_library(mp, number, gamma, mp, epsilon=1e-40),
        "cost": 8,
        "smallest_term": mp.mpf(10) ** (20 - digits),  # still visible after it is added to 1
        # Still visible in the value of a function, whose series may begin with a square.
        "smallest_argument": mp.mpf(10) ** (15 - digits // 2),
    }
