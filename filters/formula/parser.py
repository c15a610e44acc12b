r"""Parses a formula, in LaTeX or plain text, into a tree. Nothing is computed or executed.

Recursive descent over a text that `filters.text.normalize` has normalized. Text length, nesting and the
digits of a number are bounded. Raises TooLarge beyond these bounds, UnsupportedFormula for any other text.
"""

from __future__ import annotations

from fractions import Fraction

from filters.formula.lexer import ALIASES, CLOSING, FUNCTIONS, GREEK, TRIGONOMETRIC, TokenStream, tokenize
from filters.formula.tree import (
    INFINITY,
    TooLarge,
    Tree,
    UnsupportedFormula,
    flat_text,
    is_mixed_number,
    product,
)

MAX_DEPTH = 60  # of nested brackets, fractions and powers
MAX_DIGITS = 400  # of one number

_UNDEFINED = frozenset("fghFGHPQ")  # letters that are functions before a bracket, not factors
_SPLITTING = ("over", "choose")
_SUFFIXES = ("^", "!", "%", "'")
_NO_FACTOR = frozenset((*")]}⦄,&=+-*/_", *_SUFFIXES, "row", "end", ""))  # kinds of token
_ACCENTS = ["vec", "hat", "bar", "overline", "tilde", "widehat", "overrightarrow", "mathbb"]
_ACCENTS += ["mathcal", "mathscr"]
_MAX_ARGUMENTS = {"ln": 2, "log": 2, **dict.fromkeys(("max", "min", "gcd", "lcm"), 100)}  # else 1


def parse_formula(text: str) -> Tree:
    """Returns the tree of a whole text. Raises UnsupportedFormula or TooLarge."""
    parser = Parser(text)
    tree = parser.group()
    if parser.kind != "":
        raise UnsupportedFormula(parser.text)
    return tree


class Parser(TokenStream):
    """Each method reads the construct that its docstring names and stops after the last token of it."""

    def __init__(self, text: str) -> None:
        super().__init__(tokenize(text))
        self._depth = 0
        self._open_bars = 0  # of absolute values

    def group(self) -> Tree:
        r"""A sum in brackets or a whole text; also plain TeX's a \over b and n \choose k."""
        tree = self.sum()
        if self.kind == "command" and self.text in _SPLITTING:
            tree = ("div", tree, self.sum()) if self.next() == "over" else ("fn", "binom", tree, self.sum())
        return tree

    def sum(self) -> Tree:
        self._enter()
        terms = [self.term()]
        while self.kind in ("+", "-"):
            minus = self.next() == "-"
            terms.append(("neg", self.term()) if minus else self.term())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooLarge

    def term(self) -> Tree:
        """Factors joined by *, / or nothing, from left to right: 1/2x is x/2. A sign applies to all."""
        minus = self.sign()
        factors = [self.factor()]
        while self.kind in ("*", "/") or self._starts_factor():
            operator = self.next() if self.kind in ("*", "/") else ""
            if operator:
                minus ^= self.sign()
            elif self.kind == "num" and factors[-1][0] == "num":
                raise UnsupportedFormula("two numbers side by side")
            factor = self.factor()
            if not operator and len(factors) == 1 and is_mixed_number(factors[0], factor):
                factors = [("add", factors[0], factor)]
            else:
                factors.append(("inv", factor) if operator == "/" else factor)
        tree = product(factors)
        return ("neg", tree) if minus else tree

    def _starts_factor(self) -> bool:
        """Whether the current token starts a factor, which multiplies the factor before it."""
        if self.kind == "|":
            return self._open_bars == 0
        if self.kind == "command":
            return self.text not in ("rfloor", "rceil", "degrees", *_SPLITTING)
        return self.kind not in _NO_FACTOR

    def factor(self) -> Tree:
        """An atom with its powers, factorials, primes, percent and degree signs."""
        tree = self.atom()
        while self.kind in _SUFFIXES or (self.kind, self.text) == ("command", "degrees"):
            suffix = self.next()
            if suffix == "degrees":
                tree = ("mul", tree, ("fn", "pi"), ("num", Fraction(1, 180)))
            elif suffix == "!":
                tree = ("fn", "factorial", tree)
            elif suffix == "%":
                tree = ("div", tree, ("num", Fraction(100)))
            elif suffix == "'":
                tree = ("apply", "'", tree)
            else:
                power = self.exponent()
                if tree[0] == "var" and self.kind == "_":  # v^2_0 is (v_0)^2
                    tree = ("var", tree[1] + self.subscript())
                tree = ("pow", tree, power)
        return tree

    def exponent(self) -> Tree:
        """A group, or a tower of atoms that is read from the right."""
        self._enter()
        if self.kind in ("+", "-"):
            tree: Tree = ("neg", self.exponent()) if self.next() == "-" else self.exponent()
        elif self.kind == "{":
            tree = self._bracketed()
        else:
            tree = self.atom()
            if self.kind == "^":
                self.next()
                tree = ("pow", tree, self.exponent())
            while self.kind == "!":
                self.next()
                tree = ("fn", "factorial", tree)
        self._depth -= 1
        return tree

    def atom(self) -> Tree:
        """A number, a letter, a bracket, a command or a matrix."""
        if self.kind == "num":
            return ("num", _number(self.next()))
        if self.kind == "word":
            return self._letter()
        if self.kind in CLOSING:
            return self._bracketed()
        if self.kind == "|":
            return self._absolute_value()
        if self.kind == "command":
            return self._command()
        if self.kind == "begin":
            return self._matrix()
        if self.kind == "∞":
            self.next()
            return INFINITY
        raise UnsupportedFormula(self.text)

    def argument(self) -> Tree:
        r"""The argument of a command: a group, or one digit or letter (\frac12)."""
        if self.kind == "{":
            return self._bracketed()
        if self.kind == "num" and len(self.text) > 1 and self.text.isdigit():
            return ("num", _number(self.next_digit()))
        return self.atom()

    def _bracketed(self) -> Tree:
        closing = CLOSING[self.next()]
        bars, self._open_bars = self._open_bars, 0
        tree = self.group()
        self._open_bars = bars
        self.expect(closing)
        return tree

    def _absolute_value(self) -> Tree:
        self.next()
        self._open_bars += 1
        tree = self.sum()
        self._open_bars -= 1
        self.expect("|")
        return ("fn", "abs", tree)

    def _letter(self) -> Tree:
        name = self.next() + self.subscript()
        if name[0] in _UNDEFINED and self.kind == "(":
            return ("apply", name, *self._arguments())
        return ("var", name)

    def _arguments(self) -> list[Tree]:
        """Sums in brackets, separated by commas."""
        closing = CLOSING[self.next()]
        trees = self._separated(",")
        self.expect(closing)
        return trees

    def _separated(self, separator: str) -> list[Tree]:
        trees = [self.sum()]
        while self.kind == separator:
            self.next()
            trees.append(self.sum())
        return trees

    def _command(self) -> Tree:
        name = self.next()
        name = ALIASES.get(name, name)
        if name == "frac":
            numerator, denominator = self.argument(), self.argument()
            if numerator == ("var", "d") or numerator[:2] == ("var", "partial"):
                raise UnsupportedFormula("a derivative")
            return ("div", numerator, denominator)
        if name == "det":
            return ("fn", "det", self.factor())
        if name == "binom":
            return ("fn", "binom", self.argument(), self.argument())
        if name == "sqrt":
            return self._root()
        if name in ("sum", "prod"):
            return self._series(name)
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            if self.next() != "r" + name[1:]:
                raise UnsupportedFormula(f"{name} without its closing command")
            return ("fn", name[1:], tree)
        if name in FUNCTIONS:
            return self._function(name)
        if name in _ACCENTS:
            return self._accented(name)
        if name == "pi":
            return ("fn", "pi")
        if name in ("infinity", "inf"):
            return INFINITY
        if name in GREEK:
            applied = name[0].isupper()
            name += self.subscript()
            return ("apply", name, *self._arguments()) if applied and self.kind == "(" else ("var", name)
        raise UnsupportedFormula(name)

    def _root(self) -> Tree:
        degree = self._bracketed() if self.kind == "[" else ("num", Fraction(2))
        # \sqrt 12 and sqrt3 are roots of the whole number, not \sqrt{1}2
        return ("fn", "sqrt", self.atom() if self.kind == "num" else self.argument(), degree)

    def _function(self, name: str) -> Tree:
        base: list[Tree] = []
        power: Tree | None = None
        while self.kind in ("_", "^"):
            if self.next() == "_":
                base = [self.argument()]
            else:
                power = self.exponent()
        arguments = self._arguments() if self.kind in ("(", "[", "{") else [self._bare_argument()]
        if power == ("neg", ("num", Fraction(1))) and name in TRIGONOMETRIC:
            name, power = f"arc{name}", None
        if not 1 <= len(arguments) + len(base) <= _MAX_ARGUMENTS.get(name, 1):
            raise UnsupportedFormula(f"the arguments of {name}")
        tree: Tree = ("fn", name, *arguments, *base)
        return tree if power is None else ("pow", tree, power)

    def _bare_argument(self) -> Tree:
        r"""An argument without brackets, up to an operator or the next function: \sin 2x."""
        minus = self.kind == "-" and bool(self.next())
        factors = [self.factor()]
        while self._starts_factor() and not (self.kind == "command" and self.text in FUNCTIONS - {"sqrt"}):
            factors.append(self.factor())
        tree = product(factors)
        return ("neg", tree) if minus else tree

    def _accented(self, name: str) -> Tree:
        inner = self.argument()
        if name in ("overline", "bar") and inner[0] not in ("var", "num", "mul"):
            return ("fn", "conj", inner)
        name = "bar" if name == "overline" else name
        return ("var", f"{name} {flat_text(inner)}" + self.subscript())

    def _series(self, name: str) -> Tree:
        self.expect("_", "{")
        variable = self._command() if self.kind == "command" else self._letter()
        self.expect("=")
        low = self.sum()
        self.expect("}", "^")
        high = self.exponent()
        if INFINITY in (high, high[-1]):
            raise UnsupportedFormula("an infinite series")
        return (name, variable, low, high, self.term())

    def _matrix(self) -> Tree:
        """A matrix, or the determinant of a vmatrix."""
        is_determinant = "{vmatrix}" in self.next()
        rows: list[tuple[Tree, ...]] = []
        while self.kind not in ("end", ""):
            rows.append(tuple(self._separated("&")))
            if self.kind == "row":
                self.next()
        self.expect("end")
        if len({len(row) for row in rows}) != 1:
            raise UnsupportedFormula("rows of different lengths")
        return ("fn", "det", ("matrix", *rows)) if is_determinant else ("matrix", *rows)


def _number(text: str) -> Fraction:
    if len(text) > MAX_DIGITS:
        raise TooLarge
    return Fraction(text.replace(",", ""))
