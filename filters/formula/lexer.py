"""The tokens of a formula, in LaTeX or plain: numbers, letters, commands, marks.

Bounded: what is longer than LENGTH raises TooLarge, what no formula holds raises Unreadable.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

Tree = tuple[Any, ...]  # see filters.formula.parser
INFINITY: Tree = ("fn", "infinity")

LENGTH = 2000  # characters
OPERATIONS = 40_000


class Unreadable(Exception):
    """Not a formula that this reader knows."""


class TooLarge(Exception):
    """A formula that would be too costly: too long, too deep, too large."""


class Budget:
    """What one comparison may cost: operations with a number of a few digits, a few microseconds each."""

    def __init__(self, operations: int = OPERATIONS) -> None:
        self._left = operations

    def spend(self, operations: int) -> None:
        """Take these off; raises TooLarge when none are left."""
        self._left -= operations
        if self.spent:
            raise TooLarge

    @property
    def spent(self) -> bool:
        """Whether more was asked for than there was."""
        return self._left < 0


class Token(NamedTuple):
    kind: str  # "num", "word", "command", "begin", "end", "row", a mark itself, "" at the end
    text: str


TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_OTHER_FUNCTIONS = (
    "arcsin arccos arctan sinh cosh tanh exp ln log lg sqrt abs max min gcd lcm floor ceil binom factorial"
)
FUNCTIONS = TRIGONOMETRIC | frozenset(_OTHER_FUNCTIONS.split())
ALIASES = {
    "Abs": "abs",
    "arctg": "arctan",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
}
_GREEK_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar nabla partial odot"
)
GREEK = frozenset(_GREEK_LETTERS.split())

# Else a word of two or three letters is a product, unless another word stands beside it.
_SMALL = (
    "not and but the for are was has its it's per out off is it of or to in on at by as so if we be no get"
)
_SMALL_WORDS = frozenset(_SMALL.split())
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<num>(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\d.]))?|\.\d+)"
    r"|(?P<row>⏎)"
    r"|(?P<env>\\(?:begin|end)\{[a-zA-Z]*\}(?:\{[clr|]*\})?)"
    r"|\\(?P<command>[A-Za-z]+)"
    r"|(?P<word>[A-Za-z]+(?:'s(?![A-Za-z]))?|[\u0391-\u03c9µ])"
    r"|(?P<mark>[-+*/^_!()\[\]{}|,&%'=⦃⦄∞])",
    re.ASCII,
)


def tokens(text: str) -> list[Token]:
    """The tokens of a folded text, ended by an empty one. Words are split into names and letters."""
    if len(text) > LENGTH:
        raise TooLarge
    found: list[Token] = []
    at, beside = 0, False  # whether a word stood before
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable(text[at])
        at = match.end()
        kind, token = match.lastgroup or "", match[match.lastgroup or 0]
        if kind == "word":
            names = _names(token)
            if beside and len(names) > 1:
                raise Unreadable(token)
            found += names
            beside = len(names) > 1
            continue
        beside = beside and kind == "space"
        if kind == "env":
            found.append(Token("end" if token.startswith(r"\end") else "begin", token))
        elif kind != "space":
            found.append(Token(token if kind == "mark" else kind, token))
    found.append(Token("", ""))
    return found


def _names(word: str) -> list[Token]:
    """A plain word: a function's name, a Greek letter's, or a few letters that multiply."""
    if word in FUNCTIONS or word in ALIASES or word in ("pi", "infinity", "inf"):
        return [Token("command", word)]
    if word in ("degree", "degrees"):
        return [Token("command", "degrees")]
    if word in GREEK and len(word) > 2:
        return [Token("command", word)]
    for name in ("sqrt", "sin", "cos", "tan", "log", "ln", "pi"):  # 2sqrt3 is one word too: xsin, sqrtx
        head, found, tail = word.partition(name)
        if found and len(head) <= 1 and len(tail) <= 1:
            return [
                *(Token("word", c) for c in head),
                Token("command", name),
                *(Token("word", c) for c in tail),
            ]
    if len(word) > 3 or word in _SMALL_WORDS:
        raise Unreadable(word)
    return [Token("word", letter) for letter in word]
