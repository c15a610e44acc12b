r"""One spelling for texts that differ in form alone: characters, spacing, LaTeX commands that mean the same.

Pure, and linear in the text's length. What a folded text means is for `filters.grade.numbers` and others to
read. Operators become single characters (≤ ≥ ≠ ≈ ∈ ∞ ± *), and the braces of a set become ⦃ ⦄, so that a
plain brace always groups; the rows of a matrix are parted by ⏎.
"""

from __future__ import annotations

import re
import unicodedata

from filters.text.latex_tables import CHARACTERS, COMMANDS, IN_SIGNS, ROW, UNION

LONGEST = 6  # characters that one may stand for; a ligature of 18 is no mathematics

_WRAPPINGS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))

_SCRIPTS = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+|[₀-₉₊₋]+")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|mathrm|mathbf|mathit|mathsf|bm|boldsymbol|mbox|hbox"
    r"|operatorname)\*?\s?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_STYLE = re.compile(r"\\(?:text|textbf|mathrm|mathbf|bm|boldsymbol)\s?(?=\{)")  # around what has braces
_COMMAND = re.compile(r"\\([A-Za-z]+)[ \t]?")
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\w\w)", re.IGNORECASE)
_NO_INK = re.compile(r"\\(?:(?:text)?color\s?\{\w+\}|[hv]space\s?\{[^{}]*\}|phantom\s?\{[^{}]*\})")
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
_OPERATED = re.compile(
    r"(?:[-+*/^=]|\\[A-Za-z]+|(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|ln|log|exp|f|g))\s*\Z"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_BROKEN_LINE = re.compile(r"\\n(?![A-Za-z])")  # a line's end that was escaped on its way
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s?\{\s?\\(?:text|mathrm)\s?\{([^{}]*)\}\s?\}\s?\{\s?\\(?:text|mathrm)\s?\{([^{}]*)\}\s?\}"
)
_EMPTY = re.compile(r"⦃\s*⦄")
_GROUP = re.compile(r"(?<=\d)\s?(?:,\s?\\!|\{\s?,\s?\})\s?(?=\d{3})")  # 32,\! 349
_DOLLARS = re.compile(
    r"\A(-?)\s?(?:USD?\s?)?\\?\$\s?(-?\d[\d,]*(?:\.\d+)?(?:\s[mb]illion)?)(?:\s(?:dollars|USD))?\Z"
)
_TIE = re.compile(r"(?<=[\d,}])~(?=\S)|^~|~$")  # 5~cm
_PRIME = re.compile(r"\s?\^\s?(?:\{\s?((?:\\prime\s?|')+|\*)\s?\}|\\prime\s?)")
_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?!\S)")  # 2**3 and 2 ** 3 are powers
_ASCII_RELATIONS = (("<=", "≤"), (">=", "≥"), ("=<", "≤"), ("!=", "≠"), ("**", "^"))


def tidy(text: str) -> str:
    r"""The text without what merely wraps it: spaces, bold, `$`, \( \), \[ \], a trailing stop."""
    for _ in range(3):  # wrappings nest a little: **\(7\)**.
        text = text.strip(" \t\r\n*`").rstrip(".,;:。")  # not "!": 5! is 120
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1]
        if not text.startswith(("$", "\\")):
            break
        for left, right in _WRAPPINGS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner
    return text.strip()


def fold(text: str) -> str:
    """The one spelling of an answer."""
    text = _TIE.sub(" ", _LEADING.sub("", fold_characters(tidy(text)))).replace('\\"', '"')
    text = _DOLLARS.sub(r"\1\2 dollars", text)  # else what delimits formulas
    if "**" in text:
        text = _BOLD.sub("", text)
    if "{" in text or "\\" in text:
        text = _GROUP.sub("", text)
    text = _INFINITY.sub("∞", text) if "oo" in text else text
    text = _APOSTROPHE.sub("", _NEGATIVE.sub("-", text)).replace("...", r"\dots ")
    if "\\" in text:
        text = _fold_latex(text)
    text = text.replace("$", "").replace("{,}", ",").replace("\\%", "%")
    text = _without_remark(_TIMES_TEN.sub("*", _ABOUT.sub(" ≈ ", text)))
    for written, meant in _ASCII_RELATIONS:
        text = text.replace(written, meant)
    text = tidy(" ".join(text.split())).strip('"“”').removeprefix("+").lstrip("=≈→⇒ ")
    text = _IN_WORDS_BASE.sub(r"\1_\2", _without_braces(_LEADING.sub("", text)))
    text = _UNION_LETTER.sub(UNION, text)
    return IN_SIGNS.get(text.casefold(), text)


def normalize_text(text: str, *, case_sensitive: bool = False) -> str:
    """The same for words: punctuation, a leading article and, unless told otherwise, case do not count."""
    text = re.sub(r"[\"'!?.,;:()_\\]+", " ", fold(text))
    text = _ARTICLE.sub("", " ".join(text.split()))
    return text if case_sensitive else text.casefold()


def fold_characters(text: str) -> str:
    """NFKC and ASCII digits, but 2² is not 22, 1½ is not 11/2, and characters that nobody sees go."""
    if text.isascii():
        return text
    text = _SCRIPTS.sub(_scripts, text)
    return "".join(map(_fold_character, text.translate(CHARACTERS)))


def _scripts(match: re.Match[str]) -> str:
    """x¹² is x^{12}, and x₁ is x_1."""
    digits = unicodedata.normalize("NFKC", match[0]).replace("\N{MINUS SIGN}", "-")
    mark = "^" if unicodedata.decomposition(match[0][0]).startswith("<super>") else "_"
    return mark + (digits if len(digits) == 1 else "{" + digits + "}")


def _without_braces(text: str) -> str:
    """{90 degrees} as what it holds; {1, 2} is a set."""
    if text[:1] == "{" and "," not in text and text.find("}") == len(text) - 1:
        return text[1:-1].strip()
    return text


def _without_remark(text: str) -> str:
    """12 (twelve) without what the brackets say in words."""
    opened = text.rfind(" (")
    if opened <= 0 or not text.endswith(")") or text.find(")", opened) != len(text) - 1:
        return text
    remark = _LONG_WORD.search(text, opened) and "\\" not in text[opened:]
    return text[:opened] if remark and not _OPERATED.search(text[:opened]) else text


def _fold_latex(text: str) -> str:
    # "\\\\" starts a row of a matrix; elsewhere it is an escape written twice
    text = text.replace("\\\\", ROW if r"\begin" in text else "\\")
    text = _NO_INK.sub("", _ROW_GAP.sub(ROW, text))
    text = _UNIT_FRACTION.sub(r" \1/\2", _BROKEN_LINE.sub(" ", text))
    text = _PRIME.sub("'", text)
    text = (
        text.replace(r"\$", "").replace(r"\!", "").replace(r"\{", "⦃").replace(r"\}", "⦄").replace(r"\|", "|")
    )
    text = text.replace(r"\(", "").replace(r"\)", "").replace(r"\[", "").replace(r"\]", "")
    text = _SPACING.sub(" ", text)
    text = _STYLE.sub("", _TEXT.sub(r" \1 ", _TEXT.sub(r" \1 ", text)))  # they nest: \textbf{\text{A}}
    text = _EMPTY.sub("∅", _COMMAND.sub(_command, text))
    return _DEGREES.sub(" degrees ", text)


def _command(match: re.Match[str]) -> str:
    return COMMANDS.get(match[1], match[0])


def _fold_character(c: str) -> str:
    if c < "\x80" or c in f"≤≥≠≈∈∞±∓⦃⦄∅≡{ROW}{UNION}":
        return c
    if c.isdecimal():
        return str(unicodedata.decimal(c))
    kind = unicodedata.decomposition(c).partition(" ")[0]
    if kind == "<fraction>":
        return " " + unicodedata.normalize("NFKC", c).replace("\N{FRACTION SLASH}", "/")
    if unicodedata.category(c) in ("Cf", "Cs", "So"):
        return ""
    normal = unicodedata.normalize("NFKC", c)
    return normal if len(normal) <= LONGEST else c
