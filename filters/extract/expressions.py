r"""Finds the expression around a number in a sentence: "we get 2\sqrt{3}." ends on 2\sqrt{3}, not on 3.

Reads a bounded part of the text around the number once.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.formula.lexer import ALIASES, FUNCTIONS
from filters.text.measurement_units import UNITS, unit_of

BEFORE, AFTER = 200, 100  # characters read around the number

Span = tuple[int, int]

_TOKEN = re.compile(
    r"(?P<number>\d+(?:,\d{3}(?!\d))*(?:\.\d+|\.(?=\\(?:overline|bar|dot)))?|\.\d+)"
    r"|(?P<annotation><<|>>)"  # GSM8K's <<2*3=6>>6
    r"|(?P<relation>[=<>≤≥≠≈]|\\(?:le|ge|leq|geq|ne|neq|lt|gt|approx)(?![A-Za-z]))"
    r"|(?P<minus>[-−+±√])"  # noqa: RUF001
    r"|(?P<infix>[*/^_×·÷|&∪∩∈]|(?<=\d)(?::| : )(?=\d)|\\[;!, ](?=\S)|\\\\)"  # noqa: RUF001
    r"|(?P<open>\\?[({\[]|\\begin\{[a-z]*\})|(?P<close>\\?[)}\]]|\\end\{[a-z]*\})"
    r"|(?P<atom>\\(?:text|mathrm)\{[^{}]{0,40}\}|\\[A-Za-z]+|\\?%|!(?=\s?[-+*/^=)]|\.)|[π∞°¹²³⁴⁵⁶⁷⁸⁹⁰½¼¾])"
    r"|(?P<separator>,|\b(?:and|or)\b)"
    r"|(?P<copula>\b(?:is|are|equals?|gets?|gives|have|obtain|ist|est|es)\b|[是为:：])"  # noqa: RUF001
    r"|(?P<space>[ \t]+)"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_NAMES = FUNCTIONS | ALIASES.keys() | {"pi"}
_STARTS = frozenset(("number", "minus", "open", "atom", "letter"))
_BEFORE_NOUN = re.compile(r" [\w\\$(]")
_LAST_FACTOR = re.compile(r"\s*(?:[-+*/^=.,)\]}]|\Z)")  # 3 + 4 i.
_DIVIDED = re.compile(r"\s?/\s?\d")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_SOLUTION = re.compile(r"\s*([A-Za-z])(?:_\w|_\{\w\})?\s*=[^=]+")  # x_1 = 2
_SCALE = re.compile(r"\s(?:hundred|thousand|million|billion|trillion|dozen|percent)\b", re.IGNORECASE)
_UNIT = re.compile(
    r"\s?((?:(?:square|cubic) )?[A-Za-zµΩ]+(?:\s?(?:/|\bper\b)\s?[a-z]+)?(?:\^?[23])?)(?=\s*(?:[.,;:!?)]|\Z))"
)


class _Piece(NamedTuple):
    kind: str
    start: int
    end: int


def expression_at(text: str, number: Span) -> Span:
    """Returns the span of the expression that contains a number: powers, brackets, unit, equation, list.

    In a chain such as "3 + 4 = 7" it is the last link, unless letters make the chain an equation.
    """
    if _stands_alone(text, number):
        return number
    run = _trimmed(_run(text, number), number)
    if not run or run[0].start == number[0] - BEFORE > 0:  # no expression, or only its end was read
        return number
    if [piece.kind for piece in run] == ["number", "letter"] and text[run[1].start] in UNITS:
        return run[0].start, run[0].end  # 2600g
    start, end = run[0].start, run[-1].end
    if all(piece.kind != "separator" for piece in run):
        start = _last_link(text, start, end)
    if scale := _SCALE.match(text, end):
        return start, scale.end()
    unit = _UNIT.match(text, end)
    return start, unit.end(1) if unit and unit_of(unit[1]) in UNITS else end


def _stands_alone(text: str, number: Span) -> bool:
    """Whether the number stands between a word and the end of a sentence, the usual case."""
    if text[number[1] : number[1] + 2] not in (".", "", ".\n"):
        return False
    word = text[max(number[0] - 12, 0) : number[0]].removesuffix("$").rpartition("\n")[2].split(" ")
    return len(word) > 2 and word[-1] == "" and word[-2].isalpha() and word[-2] not in _NAMES | {"and", "or"}


def _run(text: str, number: Span) -> list[_Piece]:
    """Returns the longest run of mathematics around the number.

    A list counts only after "is" or a colon, or if all its parts name the same unknown.
    """
    run: list[_Piece] = []
    after_copula = False
    for match in _TOKEN.finditer(text, max(number[0] - BEFORE, 0), number[1] + AFTER):
        piece = _Piece(_kind(match), *match.span())
        if run and _joins(text, run, piece):
            run.append(piece)
            continue
        if run and run[-1].end > number[0]:
            break
        starts = piece.kind in _STARTS
        after_copula = piece.kind == "copula" or (after_copula and (starts or piece.kind == "space"))
        run = [piece] if starts else []
    return run if after_copula or _are_solutions(text, run) else _part(run, number)


def _are_solutions(text: str, run: list[_Piece]) -> bool:
    """Whether a list gives one unknown several values, which together are the answer: x = 1 or x = -2."""
    listed = text[run[0].start : run[-1].end] if run else ""
    parts = [_SOLUTION.fullmatch(part) for part in re.split(r",|\b(?:and|or)\b", listed)]
    return all(parts) and len({part[1] for part in parts if part}) == 1


def _kind(match: re.Match[str]) -> str:
    """Returns a token's kind. A word that names a function is an "atom", a variable a "letter"."""
    kind = match.lastgroup or "other"
    if kind != "word":
        return kind
    if match[0] in _NAMES:
        return "atom"
    article = match[0] in "aAI" and _BEFORE_NOUN.match(match.string, match.end())
    contracted = match.string[match.start() - 1 : match.start()] in ("'", "\u2019")  # it's
    return "letter" if len(match[0]) == 1 and not article and not contracted else "other"


def _joins(text: str, run: list[_Piece], piece: _Piece) -> bool:
    """Whether a token continues the expression before it."""
    if piece.kind in ("other", "copula", "annotation"):
        return False
    if run[-1].kind != "space" or len(run) < 2 or run[-2].kind not in ("number", "letter", "close"):
        return True
    if piece.kind == "letter":
        return bool(_LAST_FACTOR.match(text, piece.end))
    if piece.kind == "open":
        return False
    return piece.kind != "number" or _one_number(text, run, piece)


def _one_number(text: str, run: list[_Piece], piece: _Piece) -> bool:
    r"""Whether two numbers form one: 2 1/2, 1 234 567 or \log_2 5, but not "in 2020 15"."""
    before = run[-2]
    if before.kind != "number":
        return False
    if len(run) > 2 and text[run[-3].start] == "_":
        return True
    grouped = piece.end - piece.start == 3 >= before.end - before.start
    return grouped or bool(_DIVIDED.match(text, piece.end))


def _part(run: list[_Piece], number: Span) -> list[_Piece]:
    """Returns the part between separators outside brackets that contains the number."""
    depth = 0
    part: list[_Piece] = []
    for piece in run:
        depth += (piece.kind == "open") - (piece.kind == "close")
        if piece.kind == "separator" and depth <= 0:
            if part and part[-1].end > number[0]:
                break
            part = []
        else:
            part.append(piece)
    return part


def _trimmed(run: list[_Piece], number: Span) -> list[_Piece]:
    """Removes pieces that no expression starts or ends with, and unmatched brackets."""
    while run and not _can_start(run):
        run = run[1:]
    while run and run[-1].kind not in ("number", "close", "atom", "letter"):
        run = run[:-1]
    opened: list[int] = []
    for i, piece in enumerate(run):
        if piece.kind == "open":
            opened.append(i)
        elif piece.kind == "close" and not opened:
            return _trimmed(run[:i] if number[0] < piece.start else run[i + 1 :], number)
        elif piece.kind == "close":
            opened.pop()
    if opened:
        at = opened[0]
        return _trimmed(run[:at] if number[0] < run[at].start else run[at + 1 :], number)
    return run


def _can_start(run: list[_Piece]) -> bool:
    """Whether an expression can start here. A dash followed by a space marks a list item."""
    dash = run[0].kind == "minus" and run[1:2] and run[1].kind == "space"
    return run[0].kind in _STARTS and not dash


def _last_link(text: str, start: int, end: int) -> int:
    """Returns the start of the last link of 5 * 3 = 15. Keeps x^2 + y^2 = 25 and 2/3 ≈ 0.67 whole."""
    links = text[start:end].split("=")
    whole = len(links) == 1 or (len(links) == 2 and _LETTER.search(links[0]))
    return start if whole else end - len(links[-1].lstrip())
