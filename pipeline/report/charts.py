"""The charts: Vega-Lite specifications as data, drawn as SVG while the report is written, without a network.

A drawn chart takes a few kilobytes whatever it counts. It needs no script, prints, and reads its values to
screen readers. Colours are variables of the page, so one drawing serves light and dark. Labels come from the
data: Vega escapes them, then only elements and attributes that draw are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from pipeline.engine.progress import plain

Values = Sequence[dict[str, Any]]
Spec = dict[str, Any]

WIDTH = 520
IN_WORDS = 40  # values in the text alternative of a chart
COLOURS = {
    **dict.fromkeys(("correct", "kept"), "var(--good)"),
    **dict.fromkeys(("incorrect", "rejected"), "var(--bad)"),
    **dict.fromkeys(("undecided", "not graded", "unfiltered"), "var(--unsure)"),
}
BAR: Spec = {"mark": {"type": "bar", "binSpacing": 1}}
LINES: Spec = {
    "layer": [
        {"mark": {"type": "line", "strokeWidth": 1.6}},
        {
            "mark": {"type": "point", "filled": True, "opacity": 1},
            "encoding": {"size": {"field": "size", "type": "quantitative", "scale": None, "legend": None}},
        },
    ]
}
RULE: Spec = {"type": "rule", "strokeWidth": 2}
DOT: Spec = {"type": "point", "filled": True, "size": 70, "opacity": 1}
ZERO: Spec = {
    "mark": {"type": "rule", "strokeDash": [3, 3], "stroke": "var(--muted)"},
    "encoding": {"x": {"datum": 0}},
}
_TEXT = {"labelColor": "var(--muted)", "titleColor": "var(--muted)", "labelFontSize": 12}
_LINE = dict.fromkeys(("domainColor", "tickColor", "gridColor"), "var(--line)")
_CONFIG: Spec = {
    "font": "system-ui, sans-serif",
    "background": None,
    "padding": {"left": 12, "right": 8, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": {**_TEXT, **_LINE, "titleFontWeight": "normal", "titleFontSize": 12, "labelLimit": 260},
    "legend": {**_TEXT, "orient": "top", "title": None},
    "bar": {"color": "var(--accent)"},
}
_LABEL: Spec = {"description": {"field": "label"}}
_SVG = "{http://www.w3.org/2000/svg}"
_DRAWS = {f"{_SVG}{name}" for name in ("svg", "g", "path", "line", "rect", "text", "tspan", "circle")}


def histogram(values: Values, title: str) -> Markup:
    """Rows {begin, end, what, traces}: a bar for each bin, divided by `what`."""
    x = _number("begin", title, ticks=8) | {"bin": {"binned": True}}
    encoding = {"x": x, "x2": {"field": "end"}, "y": _number("traces", "traces"), **_divided(values)}
    return _draw(BAR, values, encoding, 180, title, "{what}, {begin:,} up to {end:,}: {traces:,}")


def stacked(values: Values, title: str, order: Sequence[str]) -> Markup:
    """Rows {name, what, traces}: a horizontal bar for each name, in this order, divided by `what`."""
    encoding = {"y": _names(order), "x": _number("traces", title), **_divided(values)}
    return _draw(BAR, values, encoding, max(60, 26 * len(order)), title, "{name}, {what}: {traces:,}")


def bars(values: Values, title: str, number: str = ",") -> Markup:
    """Rows {name, value}: a horizontal bar for each, in the given order."""
    encoding = {"y": _names([row["name"] for row in values]), "x": _number("value", title)}
    return _draw(BAR, values, encoding, max(60, 26 * len(values)), title, f"{{name}}: {{value:{number}}}")


def lines(values: Values, x: str, number: str = "~g", height: int = 170) -> Markup:
    """Rows {x, y, what}: a line for each `what`, with points when it has few."""
    counts = {what: sum(row["what"] == what for row in values) for what in _series(values)}
    sized = [row | {"size": 18 if counts[row["what"]] < 60 else 0} for row in values]
    encoding = {
        "x": _number("x", x, ticks=8) | {"scale": {"zero": False}},
        "y": _number("y", "") | {"scale": {"zero": False}, "axis": {"format": number, "title": None}},
        "color": _colour(list(counts), ["var(--accent)", "var(--warm)"]),
    }
    return _draw(LINES, sized, encoding, height, f"values by {x}", f"{{what}}, {x} {{x:,}}: {{y:.4g}}")


def intervals(values: Values, title: str, zero: bool = False) -> Markup:
    """Rows {name, mean, low, high}: a dot with its interval for each; `zero` draws a line at 0."""
    low = _number("low", title, ticks=13) | {"scale": {"zero": zero, "nice": True}}
    common = {"y": _names([row["name"] for row in values]), "color": {"value": "var(--accent)"}, **_LABEL}
    layers = [
        {"mark": RULE, "encoding": {"x": low, "x2": {"field": "high"}, **common}},
        {"mark": DOT, "encoding": {"x": _number("mean", title, ticks=13), **common}},
    ]
    spec = {"layer": [ZERO, *layers] if zero else layers}
    label = "{name}: {mean:.1f}, 95 % from {low:.1f} to {high:.1f}"
    return _draw(spec, values, {}, max(50, 30 * len(values)), title, label)


def sizes(values: Values) -> Markup:
    """Rows {name, megabytes, mean, low, high}: a dot with its interval and its name for each model."""
    x = _number("megabytes", "MB", ticks=8) | {"scale": {"zero": True}}
    common = {"x": x, "color": {"value": "var(--accent)"}, **_LABEL}
    low = _number("low", "pass@1, percent") | {"scale": {"zero": False, "nice": True}}
    name: Spec = {"type": "text", "align": "left", "dx": 8, "fontSize": 12}
    layers = [
        {"mark": RULE, "encoding": {"y": low, "y2": {"field": "high"}, **common}},
        {"mark": DOT, "encoding": {"y": _number("mean", "pass@1, percent"), **common}},
        {"mark": name, "encoding": {"y": _number("mean", ""), "text": {"field": "name"}, **common}},
    ]
    label = "{name}: {megabytes:,.0f} MB, {mean:.1f}, 95 % from {low:.1f} to {high:.1f}"
    return _draw({"layer": layers}, values, {}, 240, "size and pass@1", label)


def _draw(spec: Spec, values: Values, encoding: Spec, height: int, title: str, label: str) -> Markup:
    """Draws the values; `label` formats the text of a mark for pointers and screen readers."""
    import vl_convert

    series = _series(values)
    rows = [
        {key: plain(value) if isinstance(value, str) else value for key, value in row.items()}
        | {"label": plain(label.format(**row)), "rank": series.index(row.get("what"))}
        for row in values
    ]
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH,
        "height": height,
        "config": _CONFIG,
        "data": {"values": rows},
        **spec,
    }
    if encoding:
        whole["encoding"] = encoding | _LABEL
    return only_drawing(vl_convert.vegalite_to_svg(whole), _in_words(title, [row["label"] for row in rows]))


def _in_words(title: str, labels: Sequence[str]) -> str:
    """The text alternative of a chart: its values, or some of them, evenly spread, where there are many."""
    every = max(1, -(-len(labels) // IN_WORDS))
    left_out = f" (one value of {every})" if every > 1 else ""
    return f"Chart of {title}{left_out}. {'; '.join(labels[::every])}."


def _series(values: Values) -> list[Any]:
    return list(dict.fromkeys(row.get("what") for row in values))


def _number(field: str, title: str, ticks: int = 5) -> Spec:
    axis = {"format": ",~f", "tickCount": ticks}
    return {"field": field, "type": "quantitative", "title": title, "axis": axis}


def _names(order: Sequence[str]) -> Spec:
    # The domain fixes the order. `sort` would put the names into an expression.
    scale = {"domain": [plain(name) for name in order]}
    axis = {"ticks": False}
    return {"field": "name", "type": "nominal", "title": None, "sort": None, "scale": scale, "axis": axis}


def _divided(values: Values) -> Spec:
    series = _series(values)
    colours = [COLOURS.get(name, "var(--accent)") for name in series]
    return {"color": _colour(series, colours), "order": {"field": "rank", "type": "quantitative"}}


def _colour(series: Sequence[str], colours: Sequence[str]) -> Spec:
    scale = {"domain": list(series), "range": list(colours[: len(series)])}
    legend: Spec | None = {} if len(series) > 1 else None
    return {"field": "what", "type": "nominal", "scale": scale, "legend": legend}


def only_drawing(svg: str, text: str) -> Markup:
    """The SVG without elements and attributes that do more than draw, with a size that can shrink.

    `text` is read in its place.
    """
    root = ElementTree.fromstring(svg)
    _strip(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    width = root.get("viewBox", "").split()[2]
    root.set("role", "img")
    root.set("aria-label", text)
    root.set("style", f"max-width:{float(width):g}px")
    ElementTree.register_namespace("", _SVG[1:-1])
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _strip(element: ElementTree.Element) -> None:
    for name in [name for name in element.attrib if name.lower().startswith(("on", "{", "href", "style"))]:
        del element.attrib[name]
    for child in list(element):
        if child.tag in _DRAWS:
            _strip(child)
        else:
            element.remove(child)
