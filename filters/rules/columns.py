"""The filter on the columns that a problem's source keeps."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from filters.result import FilterResult, failed, passed, undecided
from pipeline.rows import Trace


def columns(trace: Trace, *, keep: dict[str, list[str | bool | int | float]]) -> FilterResult:
    """Every column that `keep` names has one of the values listed there, as in { level = [4, 5] }.

    A number, true and false equal a text that writes them, since CSV files have texts alone. Undecided where
    the row of the source had no such column.
    """
    found = trace.column_values
    if (missing := next((name for name in keep if name not in found), None)) is not None:
        return undecided("no_value", missing)
    for name, values in keep.items():
        if not any(_plain(found[name]) == _plain(each) for each in values):
            return failed("other_value", f"{name} = {found[name]}")
    return passed(", ".join(f"{name} = {found[name]}" for name in keep))


def _plain(value: Any) -> Decimal | str:
    """A value as it is compared."""
    text = str(value)
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return text
    return number if number.is_finite() else text
