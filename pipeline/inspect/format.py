"""How numbers and texts are shown to people, in every command, report and card."""

from __future__ import annotations

from math import inf
from textwrap import shorten

from pipeline.engine.progress import plain


def money(amount: float | None) -> str:
    """An amount in the currency of the recipe's prices, to the cent; small ones to two digits."""
    return "-" if amount is None else f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def at_least(amount: str, uncounted: int) -> str:
    """An amount of which some parts are not known."""
    return f"at least {amount}" if uncounted and amount != "-" else amount


def megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.0f} MB"


def speed(tokens_per_second: float | None) -> str:
    return "-" if tokens_per_second is None else f"{tokens_per_second:,.3g}"


def share(part: float | None) -> str:
    return "-" if part is None else percent(part)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval(estimate: tuple[float, float, float], unit: str = " %") -> str:
    """A mean with its 95 % interval, whose upper end may be infinite: 60.2 % [55.1, 65.3]."""
    mean, low, high = (100 * x for x in estimate)
    return f"{mean:.1f}{unit} [{low:.1f}, {'∞' if high == inf else f'{high:.1f}'}]"


def estimate(value: tuple[float, float, float] | None) -> str:
    """A mean with its 95 % interval as plain numbers: 1.23 [1.20, 1.31]."""
    if value is None:
        return "-"
    mean, low, high = (f"{number:.2f}".replace("inf", "∞") for number in value)
    return f"{mean} [{low}, {high}]"


def one_line(text: object, width: int) -> str:
    """A text on one line that cannot drive a terminal, shortened at its end."""
    return shorten(plain(str(text)), width, placeholder="...")


def clip(text: str | None, most: int) -> str | None:
    """The text, or its two ends and the number of characters left out between them; None stays None."""
    if text is None or len(text) <= most:
        return text
    left_out = f"\n\n[... {len(text) - most:,} characters left out ...]\n\n"
    return text[: most // 2] + left_out + text[-(most - most // 2) :]
