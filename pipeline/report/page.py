"""The page: template, styles and scripts put into one file that loads nothing and runs nothing of the data.

Texts of models reach it in two ways. In tables they are escaped by the template; in the browser of traces
they are JSON in a block that no script engine reads, and go into the page as text alone. The policy in its
head lets only our own scripts run, by their hashes, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_BREAKS_OUT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(report: dict[str, Any]) -> str:
    """The whole file as text."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"money": money, "span": span, "pretty": _pretty}
    style, ours, maths = (
        _text("templates/report.css"),
        _text("templates/report.js"),
        _text("vendor/temml.min.js"),
    )
    return environment.get_template("report.html").render(
        report,
        style=Markup(style),
        scripts=[Markup(maths), Markup(ours)],
        licence=_text("vendor/temml.LICENSE"),
        policy=policy(style, [maths, ours]),
        json=in_script(report["data"]),
    )


def policy(style: str, scripts: list[str]) -> str:
    """The Content-Security-Policy: these scripts and this style, nothing else, nothing from anywhere.

    A style attribute can load nothing under it, and MathML and charts set some.
    """
    hashes = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src-elem {_hash(style)}; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def in_script(data: Any) -> Markup:
    """JSON that cannot end the <script> that it stands in, whatever its texts are."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.translate(_BREAKS_OUT))


def money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def span(estimate: tuple[float, float, float]) -> str:
    """A mean with its interval; what has no upper end says so."""
    mean, low, high = estimate
    return f"{mean:.1f} [{low:.1f}, {'∞' if high == float('inf') else f'{high:.1f}'}]"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(path: str) -> str:
    return files("pipeline.report").joinpath(path).read_text(encoding="utf-8")
