"""Tables for `filters.text.normalize`: LaTeX commands, characters and words that mean the same."""

from __future__ import annotations

ROW = "⏎"  # separates the rows of a matrix
UNION = "\N{N-ARY UNION}"

# Each entry is a replacement and the commands that it replaces.
_SYMBOLS = r"""
* times cdot ast; / div; ± pm; ∓ mp; ∞ infty; ∈ in; ≡ equiv; ∅ emptyset varnothing; < lt; > gt
≤ le leq leqslant; ≥ ge geq geqslant; ≠ ne neq; ≈ approx simeq thickapprox; | lvert rvert vert mid
( langle; ) rangle; [ lbrack; ] rbrack; ⦃ lbrace; ⦄ rbrace; \frac nicefrac sfrac dfrac tfrac cfrac
\binom dbinom tbinom; \dots dotsc ldots cdots; \phi varphi; \epsilon varepsilon; \circ circ
"""
_INVISIBLE = """
left right big Big bigl bigr Bigl Bigr bigg Bigg displaystyle textstyle limits nolimits rm bf it
large Large LARGE huge Huge small underline checkmark
"""
_ENTRIES = [entry.split() for entry in _SYMBOLS.strip().replace("\n", ";").split(";")]
COMMANDS = {
    **{name: symbol for symbol, *names in _ENTRIES for name in names},
    **dict.fromkeys(_INVISIBLE.split(), ""),
    **dict.fromkeys(("quad", "qquad", "space", "thinspace"), " "),
    **dict.fromkeys(("cup", "bigcup"), UNION),
    **dict.fromkeys(("land", "wedge"), " and "),
    **dict.fromkeys(("lor", "vee"), " or "),
    "degree": " degrees ",
}
_GREEK = "αβγδεζηθικλμνξρστυφχψω"
_GREEK_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi
psi omega
"""
CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣➖", "-"),  # noqa: RUF001
        **dict.fromkeys("×·⋅∙∗✖", "*"),  # noqa: RUF001
        **dict.fromkeys("‘’′", "'"),  # noqa: RUF001
        **dict.fromkeys("“”„", '"'),
        **dict.fromkeys(("÷", "➗", "\N{DIVISION SLASH}", "\N{FRACTION SLASH}"), "/"),
        **dict(zip("\N{HEAVY PLUS SIGN}℃℉", ("+", " degrees C", " degrees F"), strict=True)),
        **dict(zip("⩽⩾∣。、", "≤≥|.,", strict=True)),  # noqa: RUF001
        **dict(zip("√π°…", (r"\sqrt ", r"\pi ", " degrees ", r"\dots "), strict=True)),
        "\N{UNION}": UNION,
        **{letter: rf"\mathbb{{{name}}}" for letter, name in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},  # noqa: RUF001
        **{letter: rf"\{name} " for letter, name in zip(_GREEK, _GREEK_NAMES.split(), strict=True)},
    }
)
_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
"""
_COUNTS = _WORDS.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
PHRASES = {
    **dict.fromkeys(("all real numbers", "all reals", "the set of all real numbers"), r"\mathbb{R}"),
    **{word: str(n) for n, word in enumerate(_COUNTS)},
    **{word: str(10 * n) for n, word in enumerate(_TENS, 2)},
    **{
        f"{ten}{space}{_COUNTS[n]}": str(10 * tens + n)
        for tens, ten in enumerate(_TENS, 2)
        for n in range(1, 10)
        for space in "- "
    },
    **{f"{one}{part}": f"1/{n}" for part, n in _PARTS.items() for one in ("one ", "one-", "a ")},
    **{
        f"{_COUNTS[count]}{space}{part}s": f"{count}/{n}"
        for part, n in _PARTS.items()
        for count in range(2, n)
        for space in " -"
    },
    "half": "1/2",
    **dict.fromkeys((f"no {real}solution{s}" for real in ("", "real ") for s in ("", "s")), "∅"),
    **dict.fromkeys(("empty set", "the empty set"), "∅"),
    "dne": "does not exist",
}
