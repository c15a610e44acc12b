"""`retort show`: rows as text. Text of a model cannot drive the terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from pipeline.engine.progress import plain
from pipeline.errors import UserError, nearest
from pipeline.inspect.problem_traces import ProblemTraces
from pipeline.inspect.run import Run
from pipeline.inspect.table import RowTable
from pipeline.rows import Row, Trace

LONG = 80  # characters from which a field gets lines of its own
MAX_WIDTH = 100_000  # of a line that is not for a terminal
LENGTH = "length"  # --sort: the characters of a response with its reasoning
# Of a trace, without --long and --fields; what is empty is left out, too.
OF_TRACE = (
    *("id", "source", "teacher", "question", "reference", "reasoning", "response", "finish_reason"),
    *("completion_tokens", "outcome", "reason", "verdicts", "error"),
)
STYLES = {"kept": "green", "passed": "green", "rejected": "red", "failed": "red", "undecided": "yellow"}


class ShownRow(Row):
    stage: str
    row: dict[str, Any]  # as rows.py declares it for the stage


class Shown(Row):
    """The document that `retort show RUN --json` prints."""

    run: str
    rows: tuple[ShownRow, ...]


def first(
    run: Run,
    stage: str | None,
    outcome: str | None,
    reason: str | None,
    source: str | None,
    count: int,
    conditions: Sequence[str] = (),
    sort: str | None = None,
) -> Shown:
    """The first rows of a stage with these values, for which the conditions of SQL hold.

    `sort`: a field, or "length" for that of the text: largest first or, after "-", smallest first. Raises
    UserError when the stage's rows have no such field.

    Without a stage: filtered traces or, before there are any, the traces so far.
    """
    if stage is None:
        stage = run.filtered_stage()
        if not run.rows(stage).parts:
            stage = stage.removesuffix("filter") + "generate"
            if outcome or reason:
                raise UserError(f"{run.path}: nothing is filtered yet; `retort why` previews the rules")
    rows = run.rows(stage)
    if not len(rows):
        run.check_begun(stage)
        raise UserError(f"{run.path}: {stage} has no rows yet; `retort status` shows how far it is")
    if (outcome or reason) and rows.row is not Trace:
        raise UserError(f"{stage} holds no traces: --kept, --rejected and --reason are for filter")
    values: dict[str, Any] = {"outcome": outcome, "source": source}
    if reason:
        values["reason"] = run.reasons(reason, stage)
    given = {name: value for name, value in values.items() if value is not None}
    chosen = rows.where(*conditions, **given)
    found = chosen.head(count) if sort is None else _sorted(chosen, sort, count)
    return Shown(run=run.path.name, rows=tuple(_shown(stage, row) for row in found))


def _sorted(rows: RowTable[Any], sort: str, count: int) -> list[Any]:
    field, known = sort.removeprefix("-"), rows.row.model_fields
    expression = field
    if field == LENGTH and rows.row is Trace:
        expression = "length(coalesce(reasoning, '')) + length(response)"
    elif field not in known:
        raise UserError(f"--sort {field}: {rows.row.__name__} has no such field{nearest(field, known)}")
    return rows.top(count, expression, smallest=sort.startswith("-"))


def only(shown: Shown, fields: Sequence[str]) -> Shown:
    """The same rows with these fields alone. Raises UserError for one that a row lacks."""
    for one in shown.rows:
        if unknown := next((name for name in fields if name not in one.row), None):
            raise UserError(f"--fields: {one.stage} has no field {unknown!r}{nearest(unknown, one.row)}")
    kept = (one.model_copy(update={"row": {n: one.row[n] for n in fields}}) for one in shown.rows)
    return shown.model_copy(update={"rows": tuple(kept)})


def short(shown: Shown) -> Shown:
    """The same rows without what is rarely read, and without empty fields."""
    kept = []
    for one in shown.rows:
        names = OF_TRACE if "teacher" in one.row and "verdicts" in one.row else tuple(one.row)
        row = {name: one.row[name] for name in names if one.row[name] not in (None, [], "")}
        kept.append(one.model_copy(update={"row": row}))
    return shown.model_copy(update={"rows": tuple(kept)})


def by_id(run: Run, stage: str | None, id: str) -> Shown:
    """The row with this id in a stage. Without a stage: a trace, or a problem with all its traces."""
    found = _everywhere(run, id) if stage is None else ((stage, r) for r in run.rows(stage).where(id=id))
    rows = tuple(_shown(where, row) for where, row in found)
    if not rows:
        raise UserError(f"{run.path}: {f'{stage} has no row' if stage else 'no trace'} with the id {id!r}")
    return Shown(run=run.path.name, rows=rows)


def print_rows(shown: Shown) -> None:
    """Prints rows field by field; long texts stand under their names, wrapped at the terminal's width."""
    screen = console()
    for one in shown.rows:
        screen.print(Text(one.stage, style="bold"))
        for name, value in one.row.items():
            for line in _lines(name, value):
                screen.print(line, overflow="fold")
        screen.print()


def print_json(document: Row) -> None:
    """Prints one JSON document in ASCII, so control characters reach no terminal or log."""
    print(json.dumps(json.loads(document.model_dump_json()), indent=2))


def console() -> Console:
    """The terminal. A file or a pipe gets whole lines, without blanks at their ends."""
    return Console() if sys.stdout.isatty() else Console(width=MAX_WIDTH, file=cast(IO[str], _Unpadded()))


class _Unpadded:
    """Standard output without the blanks that fill up the last column of a table."""

    def write(self, text: str) -> None:
        sys.stdout.write(re.sub(r" +(?=\n)", "", text))

    def flush(self) -> None:
        sys.stdout.flush()


def print_grid(table: Table) -> None:
    """Prints a table; where a terminal is too narrow, in parts that begin with the first column again."""
    screen = console()
    wide = screen.options.update(max_width=MAX_WIDTH)
    first, *rest = table.columns
    parts: list[list[Column]] = [[]]
    for column in rest:
        if parts[-1] and (
            screen.measure(_part(table, [first, *parts[-1], column]), options=wide).maximum > screen.width
        ):
            parts.append([])
        parts[-1].append(column)
    for columns in parts:
        screen.print(_part(table, [first, *columns]), markup=False)


def _part(table: Table, columns: Sequence[Column]) -> Table:
    part = Table(*(str(column.header) for column in columns), box=None, pad_edge=table.pad_edge)
    for row in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*row)
    return part


def print_lines(*lines: str) -> None:
    """Prints lines that may hold text of a model or a recipe; outcomes after a number are coloured."""
    screen = console()
    for line in lines:
        text = Text(plain(line))
        for outcome, style in STYLES.items():
            text.highlight_regex(rf"(?<=\d |% ){outcome}\b", style)
        screen.print(text, soft_wrap=not sys.stdout.isatty())


def _everywhere(run: Run, id: str) -> Iterator[tuple[str, Row]]:
    try:
        found = run.problem(id)
        yield "problem", found.problem
        yield from _traces(found)
    except UserError:  # not a problem's id: a trace's begins with the id of its problem
        found = run.problem(id.rsplit("-", 2)[0])
        yield from ((stage, trace) for stage, trace in _traces(found) if trace.id == id)


def _traces(found: ProblemTraces) -> Iterator[tuple[str, Trace]]:
    return ((stage, trace) for stage, traces in found.traces.items() for trace in traces)


def _shown(stage: str, row: Row) -> ShownRow:
    return ShownRow(stage=stage, row=row.model_dump(mode="json"))


def _lines(name: str, value: Any) -> Iterator[Text | Padding]:
    if name == "verdicts":
        for v in value:
            evidence = f" ({v['evidence']})" if v["evidence"] else ""
            style = STYLES.get(v["outcome"], "")
            yield _indented(f"{v['outcome']:9} {v['filter']} {v['reason']}{evidence}", style)
    elif name == "messages":
        for message in value:
            yield Text(f"[{message['role']}]", style="bold")
            yield _indented(message["content"])
    elif isinstance(value, str) and (len(value) > LONG or "\n" in value):
        yield Text(f"{name}:")
        yield _indented(value)
    else:
        yield Text(f"{name}: ").append(plain(str(value)), STYLES.get(str(value), ""))


def _indented(text: str, style: str = "") -> Padding:
    return Padding(Text(plain(text), style, overflow="fold"), (0, 0, 0, 2), expand=False)
