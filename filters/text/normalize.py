r"""Normalizes answers: one spelling for characters, spacing and LaTeX commands that mean the same.

Operators become single characters (≤ ≥ ≠ ≈ ∈ ∞ ± *). The braces of a set become ⦃ ⦄, so that a plain brace
always groups. The rows of a matrix are separated by ⏎. Every function is pure and takes linear time.
"""

from __future__ import annotations

import re
import unicodedata

from filters.text.latex_tables import CHARACTERS, COMMANDS, PHRASES, ROW, UNION
from filters.text.measurement_units import UNITS, unit_of
from filters.text.qualifiers import changes_number

MAX_EXPANSION = 6  # characters that NFKC may make of one; some Arabic ligatures become 18
_WRAPPINGS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))

_SCRIPTS = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+|[₀-₉₊₋]+")
_SQUARED_UNIT = re.compile(r"[\u3371-\u33df]")  # a unit in one character, such as ㎏ or ㎡
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|mathrm|mathbf|mathit|mathsf|bm|boldsymbol|mbox|hbox"
    r"|operatorname)\*?\s?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_STYLE = re.compile(r"\\(?:text|textbf|mathrm|mathbf|bm|boldsymbol)\s?(?=\{)")  # around nested braces
_COMMAND = re.compile(r"\\([A-Za-z]+)[ \t]?")
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\w\w)", re.IGNORECASE)
_INVISIBLE = re.compile(r"\\(?:(?:text)?color\s?\{\w+\}|[hv]space\s?\{[^{}]*\}|phantom\s?\{[^{}]*\})")
_INFINITY = re.compile(r"(?<![A-Za-z])oo(?![A-Za-z])")
_NEGATIVE = re.compile(r"\b(?:negative|minus)\s(?=[\d\\])", re.IGNORECASE)
_IN_WORDS_BASE = re.compile(r"\b(\d+) (?:in )?base (\d+)\Z")
_APOSTROPHE = re.compile(r"(?<=\d)['’](?=\d{3}(?!\d))")  # noqa: RUF001
_UNION_LETTER = re.compile(r"(?<=[)\]])\s?U\s?(?=[(\[])")
_ROW_GAP = re.compile(ROW + r"\[\d+[a-z]{2}\]")
_SPACING = re.compile(r"\\[,;:> ]|~")
_DEGREES = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ\s?)")
_LEADING = re.compile(
    r"^(?:therefore|thus|hence|so|then|finally|(?:the )?(?:final )?answer(?: is|:))(?:[,:]|\b|(?<=:))\s+",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(?:,|\bor|\bwhich is|\bi\.e\.|\(or)?\s(?:about|approximately|approx\.?|roughly)\s(?=[-.\d\\])",
    re.IGNORECASE,
)
_LONG_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{5}")
_REPEATS = re.compile(  # a remark without digits, or one that gives the value or its reason
    r"(?:approx\w*|about|around|roughly|or|i\.?e|since|because|as|which is)\b|\D*\Z", re.IGNORECASE
)
_OPERATED = re.compile(
    r"(?:[-+*/^=]|\\[A-Za-z]+|(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|ln|log|exp|f|g))\s*\Z"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_LOG_BASE = re.compile(r"\blog(2|10)(?=\s?\()")  # log2(3), as in programs
ESCAPED_NEWLINE = re.compile(r"\\n(?![A-Za-z])")
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s?\{\s?\\(?:text|mathrm)\s?\{([^{}]*)\}\s?\}\s?\{\s?\\(?:text|mathrm)\s?\{([^{}]*)\}\s?\}"
)
_EMPTY = re.compile(r"⦃\s*⦄")
_THOUSANDS = re.compile(r"(?<=\d)\s?(?:,\s?\\!|\{\s?,\s?\})\s?(?=\d{3})")  # 32,\! 349
_DOLLARS = re.compile(
    r"\A(-?)\s?(?:USD?\s?)?\\?\$\s?(-?\d[\d,]*(?:\.\d+)?(?:\s[mb]illion)?)(?:\s(?:dollars|USD))?\Z"
)
_TIE = re.compile(r"(?<=[\d,}])~(?=\S)|^~|~$")  # 5~cm
_PRIME = re.compile(r"\s?\^\s?(?:\{\s?((?:\\prime\s?|')+|\*)\s?\}|\\prime\s?)")
_GOES_ON = re.compile(r"\d\s?,?\s?\.{3}\Z")  # 0.333... and 1, 2, 3, ...
_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?!\S)")  # 2**3 and 2 ** 3 are powers
_ESCAPES = [(r"\$", ""), (r"\!", ""), (r"\{", "⦃"), (r"\}", "⦄"), (r"\|", "|")]
_ESCAPES += [(bracket, "") for bracket in (r"\(", r"\)", r"\[", r"\]")]
_PUNCTUATION = re.compile(r"[\"'!?;()_\\]+|[.,:]+(?!\d)|(?<!\d)[.,:]+")
_ASCII_RELATIONS = (("<=", "≤"), (">=", "≥"), ("=<", "≤"), ("!=", "≠"), ("**", "^"))


def strip_markup(text: str) -> str:
    r"""Removes markup around a text: spaces, bold, `$`, \( \), \[ \] and a final period."""
    for _ in range(3):  # wrappings may be nested: **\(7\)**.
        text = text.strip(" \t\r\n*`")
        if not _GOES_ON.search(text):
            text = text.rstrip(".,;:。")  # not "!": 5! is 120
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1]
        if not text.startswith(("$", "\\")):
            break
        for left, right in _WRAPPINGS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner
    return text.strip()


def normalize(text: str) -> str:
    """Returns the normal form of an answer, for the parsers of `filters.grade`."""
    text = _TIE.sub(" ", _LEADING.sub("", normalize_characters(strip_markup(text)))).replace('\\"', '"')
    text = _DOLLARS.sub(r"\1\2 dollars", text)  # any other $ delimits a formula
    text = _THOUSANDS.sub("", _BOLD.sub("", text))
    text = _INFINITY.sub("∞", text)
    text = _APOSTROPHE.sub("", _NEGATIVE.sub("-", text)).replace("...", r"\dots ")
    if "\\" in text:
        text = _normalize_latex(text)
    text = text.replace("$", "").replace("{,}", ",").replace("\\%", "%")
    text = _LOG_BASE.sub(r"log_{\1}", text)
    text = _without_remark(_TIMES_TEN.sub("*", _ABOUT.sub(" ≈ ", text)))
    for written, meant in _ASCII_RELATIONS:
        text = text.replace(written, meant)
    text = strip_markup(" ".join(text.split())).strip('"“”').removeprefix("+").lstrip("=≈→⇒ ")
    text = _IN_WORDS_BASE.sub(r"\1_\2", _without_braces(_LEADING.sub("", text)))
    text = _UNION_LETTER.sub(UNION, text)
    return PHRASES.get(text.casefold(), text)


def normalize_words(text: str, *, case_sensitive: bool = False) -> str:
    """Normalizes words: also drops punctuation, a leading article and, by default, case.

    Marks between digits stay (1.234, 12:50), and so does a text of signs alone, such as ") ]".
    """
    if not any(map(str.isalnum, text)):
        return " ".join(strip_markup(text).split())
    text = _PUNCTUATION.sub(" ", normalize(text))
    text = _ARTICLE.sub("", " ".join(text.split()))
    return text if case_sensitive else text.casefold()


def normalize_characters(text: str) -> str:
    """Applies NFKC and ASCII digits, keeps 2² apart from 22 and 1½ from 11/2, drops invisible characters."""
    if text.isascii():
        return text
    text = _SCRIPTS.sub(_scripts, _SQUARED_UNIT.sub(_spelled_unit, text))
    return "".join(map(_normalize_character, text.translate(CHARACTERS)))


def _spelled_unit(match: re.Match[str]) -> str:
    """Writes ㎏ as kg, and ㎡ as m²."""
    _, *codes = unicodedata.decomposition(match[0]).split()
    return " " + "".join(chr(int(code, 16)) for code in codes)


def _scripts(match: re.Match[str]) -> str:
    """Writes x¹² as x^{12}, and x₁ as x_1."""
    digits = unicodedata.normalize("NFKC", match[0]).replace("\N{MINUS SIGN}", "-")
    mark = "^" if unicodedata.decomposition(match[0][0]).startswith("<super>") else "_"
    return mark + (digits if len(digits) == 1 else "{" + digits + "}")


def _without_braces(text: str) -> str:
    """Unwraps {90 degrees}, but not {1, 2}, which is a set."""
    if text[:1] == "{" and "," not in text and text.find("}") == len(text) - 1:
        return text[1:-1].strip()
    return text


def _without_remark(text: str) -> str:
    """Removes a remark in words at the end: 12 (twelve) becomes 12, and 12 (hours) 12 hours.

    A remark that changes the number stays: 7 (remainder 2), 5 (thousand).
    """
    opened = text.rfind(" (")
    if opened <= 0 or not text.endswith(")") or text.find(")", opened) != len(text) - 1:
        return text
    before, remark = text[:opened], text[opened + 2 : -1]
    if unit_of(remark) in UNITS and len(remark) > 1:
        return f"{before} {remark}"
    is_remark = _LONG_WORD.search(remark) and "\\" not in remark and _REPEATS.match(remark)
    return before if is_remark and not _OPERATED.search(before) and not changes_number(remark) else text


def _normalize_latex(text: str) -> str:
    # "\\\\" starts a row of a matrix; elsewhere it is a doubled escape
    text = text.replace("\\\\", ROW if r"\begin" in text else "\\")
    text = _INVISIBLE.sub("", _ROW_GAP.sub(ROW, text))
    text = _UNIT_FRACTION.sub(r" \1/\2", ESCAPED_NEWLINE.sub(" ", text))
    text = _PRIME.sub("'", text)
    for escaped, symbol in _ESCAPES:
        text = text.replace(escaped, symbol)
    text = _SPACING.sub(" ", text)
    text = _STYLE.sub("", _TEXT.sub(r" \1 ", _TEXT.sub(r" \1 ", text)))  # twice: \textbf{\text{A}}
    text = _EMPTY.sub("∅", _COMMAND.sub(lambda match: COMMANDS.get(match[1], match[0]), text))
    return _DEGREES.sub(" degrees ", text)


def _normalize_character(c: str) -> str:
    if c < "\x80" or c in f"≤≥≠≈∈∞±∓⦃⦄∅≡{ROW}{UNION}":
        return c
    if c.isdecimal():
        return str(unicodedata.decimal(c))
    kind = unicodedata.decomposition(c).partition(" ")[0]
    if kind == "<fraction>":
        return " " + unicodedata.normalize("NFKC", c).replace("\N{FRACTION SLASH}", "/")
    if (category := unicodedata.category(c)) in ("Cf", "Cs", "So"):
        return " " if category == "So" else ""  # a symbol separates: 2☆3 is not 23
    normal = unicodedata.normalize("NFKC", c)
    return normal if len(normal) <= MAX_EXPANSION else c
