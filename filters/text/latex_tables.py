"""What is written in several ways and meant as one: commands, characters, numbers in words.

Tables for `filters.text.normalize`.
"""

from __future__ import annotations

ROW = "⏎"  # between the rows of a matrix
UNION = "\N{N-ARY UNION}"

COMMANDS = {
    **dict.fromkeys(("left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "bigg", "Bigg"), ""),
    **dict.fromkeys(("displaystyle", "textstyle", "limits", "nolimits", "rm", "bf", "it"), ""),
    **dict.fromkeys(("large", "Large", "LARGE", "huge", "Huge", "small", "underline", "checkmark"), ""),
    **dict.fromkeys(("nicefrac", "sfrac"), r"\frac"),
    **dict.fromkeys(("quad", "qquad", "space", "thinspace"), " "),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(("times", "cdot", "ast"), "*"),
    **dict.fromkeys(("le", "leq", "leqslant"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "≥"),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("approx", "simeq", "thickapprox"), "≈"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("land", "wedge"), " and "),
    **dict.fromkeys(("lor", "vee"), " or "),
    **dict.fromkeys(("cup", "bigcup"), UNION),
    **dict.fromkeys(("emptyset", "varnothing"), "∅"),
    **dict.fromkeys(("lbrace",), "⦃"),
    **dict.fromkeys(("rbrace",), "⦄"),
    "div": "/",
    "lt": "<",
    "gt": ">",
    "in": "∈",
    "infty": "∞",
    "pm": "±",
    "mp": "∓",
    "equiv": "≡",
    "langle": "(",
    "rangle": ")",
    "degree": " degrees ",
    "circ": r"\circ",
    "lbrack": "[",
    "rbrack": "]",
    "dotsc": r"\dots",
    "ldots": r"\dots",
    "cdots": r"\dots",
    "varphi": r"\phi",
    "varepsilon": r"\epsilon",
}
_GREEK = "αβγδεζηθικλμνξρστυφχψω"
_GREEK_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi
psi omega
"""
CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣", "-"),  # noqa: RUF001
        **dict.fromkeys("×·⋅∙∗", "*"),  # noqa: RUF001
        **dict.fromkeys("‘’′", "'"),  # noqa: RUF001
        **dict.fromkeys("“”„", '"'),
        "÷": "/",
        "\N{DIVISION SLASH}": "/",
        "\N{UNION}": UNION,
        "⩽": "≤",
        "⩾": "≥",
        "√": r"\sqrt ",
        "π": r"\pi ",
        "°": " degrees ",
        "∣": "|",  # noqa: RUF001
        "\N{FRACTION SLASH}": "/",
        "…": r"\dots ",
        **{letter: rf"\mathbb{{{name}}}" for letter, name in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},  # noqa: RUF001
        **{letter: rf"\{name} " for letter, name in zip(_GREEK, _GREEK_NAMES.split(), strict=True)},
        "。": ".",
        "、": ",",
    }
)
_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
"""
_COUNTS = _WORDS.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
IN_SIGNS = {
    **dict.fromkeys(("all real numbers", "all reals", "the set of all real numbers"), r"\mathbb{R}"),
    **{word: str(n) for n, word in enumerate(_COUNTS)},
    **{word: str(10 * n) for n, word in enumerate(_TENS, 2)},
    **{
        f"{ten}{part}{_COUNTS[n]}": str(10 * tens + n)
        for tens, ten in enumerate(_TENS, 2)
        for n in range(1, 10)
        for part in "- "
    },
    **{f"{one}{part}": f"1/{n}" for part, n in _PARTS.items() for one in ("one ", "one-", "a ")},
    **{
        f"{_COUNTS[count]}{space}{part}s": f"{count}/{n}"
        for part, n in _PARTS.items()
        for count in range(2, n)
        for space in " -"
    },
    "half": "1/2",
    **dict.fromkeys(
        (f"no {real}{word}" for real in ("", "real ") for word in ("solution", "solutions")), "∅"
    ),
    **dict.fromkeys(("empty set", "the empty set"), "∅"),
    "dne": "does not exist",
}
