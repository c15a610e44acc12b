"""Splits a formula, in LaTeX or plain text, into numbers, letters, commands and symbols."""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.formula.tree import TooLarge, UnsupportedFormula

MAX_CHARS = 2000
CLOSING = {"(": ")", "[": "]", "{": "}", "⦃": "⦄"}


class Token(NamedTuple):
    kind: str  # "num", "word", "command", "begin", "end", "row", a symbol itself, or "" at the end
    text: str


TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_OTHER_FUNCTIONS = (
    "arcsin arccos arctan sinh cosh tanh exp ln log lg sqrt abs max min gcd lcm floor ceil binom factorial"
)
FUNCTIONS = TRIGONOMETRIC | frozenset(_OTHER_FUNCTIONS.split())
ALIASES = {"Abs": "abs", "arctg": "arctan", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
ALIASES |= {"tg": "tan", "ctg": "cot", "cosec": "csc"}
_GREEK_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar nabla partial odot"
)
GREEK = frozenset(_GREEK_LETTERS.split())
_NAMES = FUNCTIONS | ALIASES.keys() | {"pi", "infinity", "inf", "degree", "degrees"}

# Any other word of two or three letters is a product, unless it stands next to another word.
_SMALL_WORDS = (
    "not and but the for are was has its it's per out off is it of or to in on at by as so if we be no get"
)
_NOT_PRODUCTS = frozenset(_SMALL_WORDS.split())
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


def tokenize(text: str) -> list[Token]:
    """Returns the tokens of a normalized text and an empty one at the end.

    Raises UnsupportedFormula or TooLarge.
    """
    if len(text) > MAX_CHARS:
        raise TooLarge
    found: list[Token] = []
    at, after_word = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UnsupportedFormula(text[at])
        at = match.end()
        kind, token = match.lastgroup or "", match[match.lastgroup or 0]
        if kind == "word":
            names = _split_word(token)
            if after_word and len(names) > 1:
                raise UnsupportedFormula(token)
            found += names
            after_word = len(names) > 1
            continue
        if token == "!" and found and found[-1].kind == "!":
            raise UnsupportedFormula("!!")  # 5!! is 5 * 3 * 1, not (5!)!
        after_word = after_word and kind == "space"
        if kind == "env":
            found.append(Token("end" if token.startswith(r"\end") else "begin", token))
        elif kind != "space":
            found.append(Token(token if kind == "mark" else kind, token))
    return [*found, Token("", "")]


def _split_word(word: str) -> list[Token]:
    """Splits a plain word into function names, Greek letters and letters that multiply."""
    if word in _NAMES or (word in GREEK and len(word) > 2):
        return [Token("command", "degrees" if word == "degree" else word)]
    for name in ("sqrt", "sin", "cos", "tan", "log", "ln", "pi"):  # xsin, sqrtx
        head, found, tail = word.partition(name)
        if found and len(head) <= 1 and len(tail) <= 1:
            return [*_letters(head), Token("command", name), *_letters(tail)]
    if len(word) > 3 or word in _NOT_PRODUCTS:
        raise UnsupportedFormula(word)
    return _letters(word)


def _letters(word: str) -> list[Token]:
    return [Token("word", letter) for letter in word]


class TokenStream:
    """A cursor over tokens. `kind` and `text` describe the current one."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._at = tokens, 0
        self.kind, self.text = tokens[0]

    def next(self) -> str:
        """Moves to the next token and returns the text of the current one."""
        text = self.text
        self._at += 1
        if self._at >= len(self._tokens):
            raise UnsupportedFormula("the end")
        self.kind, self.text = self._tokens[self._at]
        return text

    def next_digit(self) -> str:
        r"""Returns the first digit of a longer number and leaves the rest: \frac12."""
        first, rest = self.text[0], self.text[1:]
        self.kind, self.text = self._tokens[self._at] = Token("num", rest)
        return first

    def expect(self, *kinds: str) -> None:
        """Moves past tokens of these kinds. Raises UnsupportedFormula for any other."""
        for kind in kinds:
            if self.kind != kind:
                raise UnsupportedFormula(f"{self.text} instead of {kind}")
            self.next()

    def sign(self) -> bool:
        """Reads any number of signs. Returns whether they amount to a minus."""
        minus = False
        while self.kind in ("+", "-"):
            minus ^= self.next() == "-"
        return minus

    def subscript(self) -> str:
        """Reads `_{...}` as a part of a name, "" if there is none."""
        if self.kind != "_":
            return ""
        self.next()
        if self.kind not in ("{", "("):
            return "_" + self.next()
        closing, name = CLOSING[self.next()], "_"
        while self.kind != closing:
            if self.kind == "" or self.kind in CLOSING:
                raise UnsupportedFormula(self.text)
            name += self.next()
        self.next()
        return name
