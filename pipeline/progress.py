"""How far a stage is: a bar in a terminal, a plain line every ten seconds in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

EVERY = 10.0  # seconds between two plain lines


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts units done and failed. `total` may be unknown; `done` starts at what an earlier try finished."""

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self.label, self.total, self.done, self.failed = label, total, done, 0
        self.began, self.at_start, self.said = time.monotonic(), done, time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress as rich
            from rich.console import Console

            columns = (
                rich.TextColumn("{task.description}"),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[note]}"),
                rich.TimeElapsedColumn(),
                rich.TimeRemainingColumn(),
            )
            self._bar = rich.Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._line()

    def update(self, done: int = 0, failed: int = 0, note: str = "") -> None:
        """Count further units; `note` is shown beside the count."""
        self.done += done
        self.failed += failed
        note = f"{self.failed} failed" if self.failed and not note else note
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self.said >= EVERY:
            self._line(note)

    def _line(self, note: str = "") -> None:
        self.said = time.monotonic()
        rate = (self.done - self.at_start) / max(self.said - self.began, 1e-9)
        of = f"/{self.total}" if self.total is not None else ""
        say(f"{self.label}: {self.done}{of}, {rate:.1f}/s" + (f", {note}" if note else ""))
