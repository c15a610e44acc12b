"""The charts as SVG, drawn by Vega-Lite while the report is written (vl-convert carries it; no network).

Drawn beforehand, a chart is a few kilobytes whatever it counts, needs no script, prints, and says its
values to screen readers. Colours are the page's variables, so one drawing serves light and dark. Labels
come from the data: Vega escapes them, and what it drew is read as XML once more and kept only where it
draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from pipeline.engine.progress import plain

WIDTH = 520
COLOURS = {
    "right": "var(--good)",
    "wrong": "var(--bad)",
    "kept": "var(--good)",
    "rejected": "var(--bad)",
    "undecided": "var(--unsure)",
    "not judged": "var(--unsure)",
    "unfiltered": "var(--unsure)",
}
_SVG = "{http://www.w3.org/2000/svg}"
_DRAWS = frozenset(
    f"{_SVG}{name}" for name in ("svg", "g", "path", "line", "rect", "text", "tspan", "circle")
)
_FONT = "system-ui, sans-serif"
_AXIS = {
    "labelColor": "var(--muted)",
    "titleColor": "var(--muted)",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "gridColor": "var(--line)",
    "titleFontWeight": "normal",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "labelLimit": 260,
}
_CONFIG: dict[str, Any] = {
    "font": _FONT,
    "background": None,
    "padding": {"left": 12, "right": 8, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "orient": "top",
        "title": None,
    },
    "bar": {"color": "var(--accent)"},
}
Values = Sequence[dict[str, Any]]


def histogram(values: Values, title: str, height: int = 180) -> Markup:
    """Rows {begin, end, what, traces}: a bar for each bin, parted by `what`."""
    series = list(dict.fromkeys(row["what"] for row in values))
    return _draw(
        values,
        {"type": "bar", "binSpacing": 1},
        {
            "x": _number("begin", title, bin={"binned": True}, axis={"format": ",~f", "tickCount": 8}),
            "x2": {"field": "end"},
            "y": _number("traces", "traces", axis={"format": ",~f", "tickCount": 5}),
            "color": _coloured("what", series),
            "order": {"field": "rank", "type": "quantitative"},
            "description": {"field": "label"},
        },
        height=height,
        label=lambda r: f"{r['what']}, {r['begin']:,} to {r['end'] - 1:,}: {r['traces']:,}",
        rank=lambda r: series.index(r["what"]),
    )


def stacked(values: Values, title: str, order: Sequence[str], height: int | None = None) -> Markup:
    """Rows {name, what, traces}: a bar across for each name, in this order, parted by `what`."""
    series = list(dict.fromkeys(row["what"] for row in values))
    return _draw(
        values,
        {"type": "bar"},
        {
            "y": _names("name", order),
            "x": _number("traces", title, axis={"format": ",~f", "tickCount": 5}),
            "color": _coloured("what", series),
            "order": {"field": "rank", "type": "quantitative"},
            "description": {"field": "label"},
        },
        height=height or max(60, 26 * len(order)),
        label=lambda r: f"{r['name']}, {r['what']}: {r['traces']:,}",
        rank=lambda r: series.index(r["what"]),
    )


def bars(values: Values, title: str, shown: str = ",") -> Markup:
    """Rows {name, value}: a bar across for each, in the order in which they come."""
    return _draw(
        values,
        {"type": "bar"},
        {
            "y": _names("name", [row["name"] for row in values]),
            "x": _number("value", title, axis={"format": ",~f", "tickCount": 5}),
            "description": {"field": "label"},
        },
        height=max(60, 26 * len(values)),
        label=lambda r: f"{r['name']}: {r['value']:{shown}}",
    )


def lines(values: Values, x: str, shown: str = "~g", height: int = 170) -> Markup:
    """Rows {x, y, what}: a line for each `what`; a point that is alone is seen as a point."""
    series = list(dict.fromkeys(row["what"] for row in values))
    colours = ["var(--accent)", "var(--warm)"]
    alone = {what for what in series if sum(row["what"] == what for row in values) < 60}
    sized = [row | {"size": 18 if row["what"] in alone else 0} for row in values]
    return _draw(
        sized,
        {"type": "line", "strokeWidth": 1.6},
        {
            "x": _number("x", x, axis={"tickCount": 8, "format": ",~f"}, scale={"zero": False}),
            "y": _number("y", "", scale={"zero": False}, axis={"format": shown, "title": None}),
            "color": {
                "field": "what",
                "type": "nominal",
                "scale": {"domain": series, "range": colours[: len(series)]},
                "legend": {} if len(series) > 1 else None,
            },
            "description": {"field": "label"},
        },
        height=height,
        label=lambda r: f"{r['what']}, {x} {r['x']:,}: {r['y']:.4g}",
        points=True,
    )


def intervals(values: Values, title: str, zero: bool = False) -> Markup:
    """Rows {name, mean, low, high}: a dot with its interval for each; `zero` draws a line at 0."""
    order = [row["name"] for row in values]
    y = _names("name", order)
    label = {"description": {"field": "label"}}
    low = _number("low", title, scale={"zero": zero, "nice": True})
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"y": y, "x": low, "x2": {"field": "high"}} | label,
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"y": y, "x": _number("mean", title)} | label,
        },
    ]
    for layer in layers:
        layer["encoding"]["color"] = {"value": "var(--accent)"}
    if zero:
        line = {"type": "rule", "strokeDash": [3, 3], "stroke": "var(--muted)"}
        layers.insert(0, {"mark": line, "encoding": {"x": {"datum": 0}}})
    said = [
        row | {"label": f"{row['name']}: {row['mean']:.1f}, 95 % from {row['low']:.1f} to {row['high']:.1f}"}
        for row in map(_named, values)
    ]
    return _svg({"data": {"values": said}, "layer": layers, "height": max(50, 30 * len(order))})


def _draw(
    values: Values,
    mark: dict[str, Any],
    encoding: dict[str, Any],
    *,
    height: int,
    label: Any,
    rank: Any = None,
    points: bool = False,
) -> Markup:
    rows = [
        _named(row) | {"label": plain(label(row))} | ({"rank": rank(row)} if rank else {}) for row in values
    ]
    spec: dict[str, Any] = {"data": {"values": rows}, "height": height, "encoding": encoding}
    if points:
        size = {"size": {"field": "size", "type": "quantitative", "scale": None, "legend": None}}
        dots = {"type": "point", "filled": True, "opacity": 1}
        return _svg(spec | {"layer": [{"mark": mark}, {"mark": dots, "encoding": size}]})
    return _svg(spec | {"mark": mark})


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """With a name that XML can hold."""
    return row | {"name": plain(row["name"])} if "name" in row else dict(row)


def _number(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _names(field: str, order: Sequence[str]) -> dict[str, Any]:
    # Not `sort`: Vega-Lite makes an expression of its names.
    scale = {"domain": [plain(name) for name in order]}
    return {
        "field": field,
        "type": "nominal",
        "title": None,
        "sort": None,
        "scale": scale,
        "axis": {"ticks": False},
    }


def _coloured(field: str, series: Sequence[str]) -> dict[str, Any]:
    colours = [COLOURS.get(name, "var(--accent)") for name in series]
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(series), "range": colours},
        "legend": {} if len(series) > 1 else None,
    }


def _svg(spec: dict[str, Any]) -> Markup:
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "width": WIDTH,
            "config": _CONFIG,
            **spec,
        }
    )
    return only_drawing(drawn)


def only_drawing(svg: str) -> Markup:
    """The SVG without any element or attribute that does more than draw, and with a size that may shrink."""
    root = ElementTree.fromstring(svg)
    _strip(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    width = root.get("viewBox", "").split()[2]
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
