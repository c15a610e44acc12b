"""`retort show`: rows as text. Text of a model cannot drive the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipeline.engine.progress import plain
from pipeline.errors import UserError
from pipeline.inspect.problem_traces import ProblemTraces
from pipeline.inspect.run import Run
from pipeline.rows import Row, Trace

LONG = 80  # characters from which a field gets lines of its own


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
) -> Shown:
    """The first rows of a stage with these values, for which the conditions of SQL hold.

    Raises UserError when the stage's rows have no such field.

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
    return Shown(run=run.path.name, rows=tuple(_shown(stage, row) for row in chosen.head(count)))


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
    """The terminal; in a file or a pipe, lines have up to 160 characters."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def print_lines(*lines: str) -> None:
    """Prints lines that may hold text of a model or a recipe."""
    screen = console()
    for line in lines:
        screen.print(plain(line), markup=False, highlight=False)


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
            yield _indented(f"{v['outcome']:9} {v['filter']} {v['reason']}{evidence}")
    elif name == "messages":
        for message in value:
            yield Text(f"[{message['role']}]", style="bold")
            yield _indented(message["content"])
    elif isinstance(value, str) and (len(value) > LONG or "\n" in value):
        yield Text(f"{name}:")
        yield _indented(value)
    else:
        yield Text(f"{name}: {plain(str(value))}")


def _indented(text: str) -> Padding:
    return Padding(Text(plain(text), overflow="fold"), (0, 0, 0, 2), expand=False)
