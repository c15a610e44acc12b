"""The page: template, styles and scripts in one file, which loads nothing and runs nothing of the data.

Texts of models reach it in two ways. The template escapes those in tables. Those in the browser of traces are
JSON in a block that no script engine reads, and enter the page as text nodes. The policy in the page's head
lets only our own scripts run, by their hashes, and forbids all fetches.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.inspect.format import (
    at_least,
    count,
    estimate,
    interval,
    megabytes,
    money,
    percent,
    share,
    speed,
)

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
    environment.filters |= {"money": money, "count": count, "at_least": at_least}
    environment.filters |= {"estimate": estimate, "interval": interval, "percent": percent, "pretty": _pretty}
    environment.filters |= {"megabytes": megabytes, "speed": speed, "share": share}
    style, *scripts = map(asset, ("report.css", "temml.min.js", "trace.js", "report.js"))
    return environment.get_template("report.html").render(
        report,
        style=Markup(style),
        scripts=list(map(Markup, scripts)),
        licence=asset("temml.LICENSE"),
        policy=policy(style, scripts),
        json=in_script(report["data"]),
    )


def policy(style: str, scripts: list[str]) -> str:
    """The Content-Security-Policy: these scripts and this style, and nothing from elsewhere.

    It allows style attributes, which MathML and the charts set and which cannot load anything under it.
    """
    hashes = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src-elem {_hash(style)}; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def in_script(data: Any) -> Markup:
    """JSON that cannot end the <script> around it, whatever its texts are."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.translate(_BREAKS_OUT))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def asset(name: str) -> str:
    """The text of a style or script of the report; `retort view` serves the same."""
    folder = "vendor" if name.startswith("temml") else "templates"
    return files("pipeline.report").joinpath(folder, name).read_text(encoding="utf-8")
