"""`retort show`: rows as text for people; and how all commands write. Model text drives no terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipeline.engine.progress import plain
from pipeline.errors import UserError
from pipeline.inspect.run import Answered, Run
from pipeline.rows import Row, Trace

LONG = 80  # characters of a field that stands on a line of its own


class ShownRow(Row):
    stage: str
    row: dict[str, Any]  # as rows.py declares it for the stage


class Shown(Row):
    """What `retort show RUN --json` prints."""

    run: str
    rows: tuple[ShownRow, ...]


def first(
    run: Run, stage: str, outcome: str | None, reason: str | None, source: str | None, count: int
) -> Shown:
    """The first rows of a stage that have these values. Raises UserError where it holds no such field."""
    rows = run.rows(stage)
    if not rows.paths:
        run.check_begun(stage)
        raise UserError(f"{run.path}: {stage} has no sealed shard yet; `retort status` shows how far it is")
    if (outcome or reason) and rows.row is not Trace:
        raise UserError(f"{stage} holds no traces: --kept, --rejected and --reason are for filter")
    values: dict[str, Any] = {"outcome": outcome, "source": source}
    if reason:
        values["reason"] = run.reasons(reason, stage)
    chosen = rows.where(**{name: value for name, value in values.items() if value is not None})
    return Shown(run=run.path.name, rows=tuple(_shown(stage, row) for row in chosen.head(count)))


def by_id(run: Run, stage: str | None, id: str) -> Shown:
    """The row with this id in a stage. Without a stage: a trace, or a problem with every trace of it."""
    if stage is not None:
        rows = tuple(_shown(stage, row) for row in run.rows(stage).where(id=id).located())
    else:
        rows = tuple(_shown(found, row) for found, row in _everywhere(run, id))
    if not rows:
        raise UserError(f"{run.path}: {f'{stage} has no row' if stage else 'no trace'} with the id {id!r}")
    return Shown(run=run.path.name, rows=rows)


def print_rows(shown: Shown) -> None:
    """Field by field; long texts under their names, wrapped at the width of the terminal."""
    screen = console()
    for one in shown.rows:
        screen.print(Text(f"{one.stage}", style="bold"))
        for name, value in one.row.items():
            for line in _lines(name, value):
                screen.print(line, overflow="fold")
        screen.print()


def print_json(document: Row) -> None:
    """One JSON document in ASCII: what a terminal or a log would obey is escaped."""
    print(json.dumps(json.loads(document.model_dump_json()), indent=2))


def console() -> Console:
    """The terminal as it is; in a file or a pipe, lines as long as they need to be."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def at_least(amount: str, uncounted: int) -> str:
    """An amount as it is shown where so many of its parts are not known."""
    return f"at least {amount}" if uncounted and amount != "-" else amount


def money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"


def _everywhere(run: Run, id: str) -> Iterator[tuple[str, Row]]:
    try:
        answered = run.problem(id)
        yield "problem", answered.problem
        yield from _traces(answered)
    except UserError:  # it is no problem's: a trace's begins with that of its problem
        answered = run.problem(id.rsplit("-", 2)[0])
        yield from ((stage, trace) for stage, trace in _traces(answered) if trace.id == id)


def _traces(answered: Answered) -> Iterator[tuple[str, Trace]]:
    return ((stage, trace) for stage, traces in answered.traces.items() for trace in traces)


def _shown(stage: str, row: Row) -> ShownRow:
    return ShownRow(stage=stage, row=row.model_dump(mode="json"))


def _lines(name: str, value: Any) -> Iterator[Text | Padding]:
    if name == "verdicts":
        for v in value:
            said = f"{v['outcome']:8} {v['filter']} {v['reason']}"
            yield _indented(said + (f" ({v['evidence']})" if v["evidence"] else ""))
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
