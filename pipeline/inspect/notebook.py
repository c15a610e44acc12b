"""How runs, tables and problems look in a Jupyter notebook: small HTML, every text in it escaped by Jinja.

No script, no style sheet, nothing loaded: it follows the notebook's own look, light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from pipeline.rows import Row, Trace

if TYPE_CHECKING:
    from pipeline.inspect.run import Answered, Run
    from pipeline.inspect.table import Table

SHOWN = 5  # rows of a table
WIDTH = 160  # characters of a cell
FIELDS: dict[type[Row], Sequence[str]] = {  # of rows that are too wide to show whole
    Trace: ("id", "source", "question", "reference", "outcome", "reason", "reasoning", "response"),
}
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
{% if trace.reasoning %}<details><summary>thought</summary>
<pre style="white-space: pre-wrap">{{ trace.reasoning }}</pre></details>{% endif %}
<pre style="white-space: pre-wrap">{{ trace.response }}</pre>
<ul>{% for v in trace.verdicts %}<li>{{ v.outcome }}: {{ v.filter }} {{ v.reason }}
{% if v.evidence %}<code>{{ v.evidence }}</code>{% endif %}</li>{% endfor %}</ul>
</details>{% endfor %}{% endfor %}
"""


def table(rows: Table[Any]) -> str:
    """The first rows, their long texts cut, under the count of all."""
    names = FIELDS.get(rows.row) or list(rows.row.model_fields)
    count = len(rows)
    first = f"; the first {SHOWN}" if count > SHOWN else ""
    caption = f"{count:,} rows of {rows.row.__name__} in {len(rows.paths)} shards{first}"
    records = (record for batch in rows.batches(names, SHOWN) for record in batch.to_pylist())
    cells = [[_cell(record[name]) for name in names] for record in islice(records, SHOWN)]
    return _render(_TABLE, caption=caption, names=names, rows=cells)


def run(opened: Run) -> str:
    """What each stage holds."""
    names = ["stage", "state", "rows", "failed", "shards sealed"]
    cells = [
        [stage, opened.state(stage), f"{n.rows:,}", f"{n.failed:,}", f"{n.sealed}/{n.shards}"]
        for stage, n in opened.counts().items()
    ]
    return _render(_TABLE, caption=f"run {opened.path.name}", names=names, rows=cells)


def problem(answered: Answered) -> str:
    """The question, and every trace folded under its verdict."""
    return _render(_PROBLEM, problem=answered.problem, groups=answered.traces.items())


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _render(template: str, **values: Any) -> str:
    return Environment(autoescape=True).from_string(template).render(left=_LEFT, **values)
