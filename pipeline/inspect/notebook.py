"""HTML of tables and problems in a Jupyter notebook. Jinja escapes every text.

It has no script and no style sheet and loads nothing, so it follows the notebook's own look, light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment

from pipeline.rows import Problem, Trace

WIDTH = 160  # characters of a cell
_LEFT = "text-align: left; vertical-align: top"

_TABLE = """
<table><caption style="text-align: left">{{ caption }}</caption>
<thead><tr>{% for name in names %}<th style="{{ left }}">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for cells in rows %}
<tr>{% for cell in cells %}<td style="{{ left }}">{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table>
"""
_PROBLEM = """
<h4>{{ problem.question }}</h4>
<p>reference: <b>{{ problem.reference }}</b>, source: {{ problem.source }}, id:
<code>{{ problem.id }}</code></p>
{% for stage, traces in groups %}<h5>{{ stage }}</h5>{% for trace in traces %}
<details><summary><b>{{ trace.outcome }}</b> {{ trace.reason }} <code>{{ trace.id }}</code>
 {{ trace.teacher }}, {{ trace.completion_tokens }} tokens</summary>
{% if trace.reasoning %}<details><summary>reasoning</summary>
<pre style="white-space: pre-wrap">{{ trace.reasoning }}</pre></details>{% endif %}
<pre style="white-space: pre-wrap">{{ trace.response }}</pre>
<ul>{% for v in trace.verdicts %}<li>{{ v.outcome }}: {{ v.filter }} {{ v.reason }}
{% if v.evidence %}<code>{{ v.evidence }}</code>{% endif %}</li>{% endfor %}</ul>
</details>{% endfor %}{% endfor %}
"""


def table(caption: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; long texts are shortened."""
    return _render(_TABLE, caption=caption, names=names, rows=[[_cell(cell) for cell in row] for row in rows])


def problem(problem: Problem, traces: Mapping[str, Sequence[Trace]]) -> str:
    """A question, and by stage its traces, each folded under its outcome."""
    return _render(_PROBLEM, problem=problem, groups=traces.items())


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _render(template: str, **values: Any) -> str:
    return Environment(autoescape=True).from_string(template).render(left=_LEFT, **values)
