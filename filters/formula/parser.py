r"""Read a formula, in LaTeX or plain, into a tree. Nothing is computed here, and nothing is ever executed.

A tree is a tuple: an operation's name, then its arguments.

    ("num", Fraction) ("var", name) ("add", *n) ("mul", *n) ("div", a, b) ("inv", a)
    ("pow", a, b) ("neg", a)
    ("fn", name, *arguments)          one of `FUNCTIONS`
    ("apply", name, *arguments)       a function that nobody defined: f(x)
    ("sum" | "prod", variable, from, to, body)
    ("matrix", row, row, ...)         each row a tuple of trees

Bounded: by the text's length, by the depth of nesting, by the digits of a number. What is beyond raises
TooLarge, what is no formula raises Unreadable. Text is expected as `filters.text.normalize` leaves it.
"""

from __future__ import annotations

from fractions import Fraction

from filters.formula.lexer import INFINITY, Token, TooLarge, Tree, Unreadable, tokens
from filters.formula.parse_commands import read_command, read_matrix

DEPTH = 60  # brackets, fractions and powers inside one another
DIGITS = 400  # of one number


_UNDEFINED = frozenset("fghFGHPQ")  # letters that, before a bracket, apply rather than multiply
_SPLITTING = ("over", "choose")
_OPENING = {"(": ")", "[": "]", "{": "}", "⦃": "⦄"}
_STOPS = frozenset((")", "]", "}", "⦄", ",", "&", "=", "+", "-", "*", "/", "row", "end", ""))


def parse(text: str) -> Tree:
    """The tree of a whole text. Raises Unreadable or TooLarge."""
    reader = Reader(tokens(text))
    tree = reader.group()
    if reader.kind != "":
        raise Unreadable(reader.text)
    return tree


class Reader:
    """Recursive descent; every rule leaves the reader behind what it read."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0
        self._bars = 0  # open absolute values
        self.kind, self.text = tokens[0]

    def group(self) -> Tree:
        r"""What a bracket or the whole text holds: a sum, or plain TeX's a \over b and n \choose k."""
        tree = self.sum()
        if self.kind == "command" and self.text in _SPLITTING:
            tree = ("div", tree, self.sum()) if self.next() == "over" else ("fn", "binom", tree, self.sum())
        return tree

    def sum(self) -> Tree:
        """Terms between + and -."""
        self._depth += 1
        if self._depth > DEPTH:
            raise TooLarge
        terms = [self.term()]
        while self.kind in ("+", "-"):
            minus = self.next() == "-"
            terms.append(("neg", self.term()) if minus else self.term())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def term(self) -> Tree:
        """Factors joined by *, / or nothing, from left to right: 1/2x is x/2. A sign belongs to all."""
        minus = self._sign()
        factors = [self.factor()]
        while self.kind in ("*", "/") or self.starts_factor():
            mark = self.next() if self.kind in ("*", "/") else ""
            if mark:
                minus ^= self._sign()
            elif self.kind == "num" and factors[-1][0] == "num":
                raise Unreadable("two numbers side by side")
            factor = self.factor()
            if not mark and len(factors) == 1 and _is_mixed(factors[0], factor):
                factors = [("add", factors[0], factor)]
            else:
                factors.append(("inv", factor) if mark == "/" else factor)
        tree = factors[0] if len(factors) == 1 else ("mul", *factors)
        return ("neg", tree) if minus else tree

    def _sign(self) -> bool:
        """Whether the signs here, any number of them, come to a minus."""
        minus = False
        while self.kind in ("+", "-"):
            minus ^= self.next() == "-"
        return minus

    def factor(self) -> Tree:
        """An atom with its powers, factorials, primes."""
        tree = self.atom()
        while self.kind in ("^", "!", "%", "'") or (self.kind, self.text) == ("command", "degrees"):
            mark = self.next()
            if mark == "degrees":
                tree = ("mul", tree, ("fn", "pi"), ("num", Fraction(1, 180)))
                continue
            if mark == "!":
                tree = ("fn", "factorial", tree)
            elif mark == "%":
                tree = ("div", tree, ("num", Fraction(100)))
            elif mark == "'":
                tree = ("apply", "'", tree)
            else:
                power = self.exponent()
                if tree[0] == "var" and self.kind == "_":  # v^2_0 is (v_0)^2
                    tree = ("var", tree[1] + self.subscript())
                tree = ("pow", tree, power)
        return tree

    def exponent(self) -> Tree:
        """What follows ^: a group, or a tower of atoms, read from the right."""
        self._depth += 1
        if self._depth > DEPTH:
            raise TooLarge
        if self.kind in ("+", "-"):
            tree: Tree = ("neg", self.exponent()) if self.next() == "-" else self.exponent()
        elif self.kind == "{":
            tree = self._bracketed()
        else:
            tree = self.atom()
            if self.kind == "^":  # a tower is read from the right
                self.next()
                tree = ("pow", tree, self.exponent())
            while self.kind == "!":
                self.next()
                tree = ("fn", "factorial", tree)
        self._depth -= 1
        return tree

    def atom(self) -> Tree:
        """A number, a letter, a bracket, a command."""
        kind, text = self.kind, self.text
        if kind == "num":
            self.next()
            return ("num", _number(text))
        if kind == "word":
            return self.letter()
        if kind in _OPENING:
            return self._bracketed()
        if kind == "|":
            return self._absolute()
        if kind == "command":
            return read_command(self)
        if kind == "begin":
            return read_matrix(self)
        if kind == "∞":
            self.next()
            return INFINITY
        raise Unreadable(text)

    def _bracketed(self) -> Tree:
        closing = _OPENING[self.next()]
        bars, self._bars = self._bars, 0
        tree = self.group()
        self._bars = bars
        self.expect(closing)
        return tree

    def _absolute(self) -> Tree:
        self.next()
        self._bars += 1
        tree = self.sum()
        self._bars -= 1
        self.expect("|")
        return ("fn", "abs", tree)

    def letter(self) -> Tree:
        name = self.next()
        name += self.subscript()
        if name[0] in _UNDEFINED and self.kind == "(":
            return ("apply", name, *self.arguments())
        return ("var", name)

    def subscript(self) -> str:
        """`_{...}` as a part of a name."""
        if self.kind != "_":
            return ""
        self.next()
        if self.kind not in ("{", "("):
            return "_" + self.next()
        closing, name = _OPENING[self.next()], "_"
        while self.kind != closing:
            if self.kind == "" or self.kind in _OPENING:
                raise Unreadable(self.text)
            name += self.next()
        self.next()
        return name

    def arguments(self) -> list[Tree]:
        """What stands in brackets, between commas."""
        closing = _OPENING[self.next()]
        trees = [self.sum()]
        while self.kind == ",":
            self.next()
            trees.append(self.sum())
        self.expect(closing)
        return trees

    def argument(self) -> Tree:
        r"""What a command takes: a group, or one digit or letter (\frac12)."""
        if self.kind == "{":
            return self._bracketed()
        if self.kind == "num" and len(self.text) > 1 and self.text.isdigit():
            first, rest = self.text[0], self.text[1:]
            self.kind, self.text = self._tokens[self._at] = Token("num", rest)
            return ("num", _number(first))
        return self.atom()

    def starts_factor(self) -> bool:
        """Whether a factor begins here, so that it multiplies what was before."""
        if self.kind == "|":
            return self._bars == 0
        if self.kind == "command":
            return self.text not in ("rfloor", "rceil", "degrees", *_SPLITTING)
        return self.kind not in _STOPS and self.kind not in ("^", "_", "!", "%", "'")

    def next(self) -> str:
        """The text of this token; the reader moves on to the next."""
        text = self.text
        self._at += 1
        if self._at >= len(self._tokens):
            raise Unreadable("the end")
        self.kind, self.text = self._tokens[self._at]
        return text

    def expect(self, kind: str) -> None:
        """Move past a token of this kind. Raises Unreadable where it is another."""
        if self.kind != kind:
            raise Unreadable(f"{self.text} where {kind} should be")
        self.next()

    def expect_command(self, name: str) -> None:
        """Move past this command. Raises Unreadable where it is another."""
        if (self.kind, self.text) != ("command", name):
            raise Unreadable(f"{self.text} where {name} should be")
        self.next()


def _number(text: str) -> Fraction:
    if len(text) > DIGITS:
        raise TooLarge
    return Fraction(text.replace(",", ""))


def _is_mixed(whole: Tree, part: Tree) -> bool:
    r"""2\frac{1}{2}: a whole number before a proper fraction of whole numbers."""
    if whole[0] != "num" or part[0] != "div" or whole[1].denominator != 1:
        return False
    above, below = part[1:]
    return bool(above[0] == below[0] == "num" and 0 < above[1] < below[1])


def parts(tree: Tree) -> list[Tree]:
    """The trees directly inside a tree."""
    if tree[0] == "matrix":
        return [part for row in tree[1:] for part in row]
    return [part for part in tree[1:] if isinstance(part, tuple)]
