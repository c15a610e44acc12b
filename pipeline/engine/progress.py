"""Progress of a stage on stderr: a bar in a terminal, a plain line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

LOG_INTERVAL = 10.0  # seconds between two plain lines


def say(text: str) -> None:
    """Prints a line for people, with control characters escaped."""
    print(plain(text), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """Escapes control characters other than newline and tab, so that the text cannot drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


class Progress:
    """Counts done and failed items. `total` may be None; `done` starts at what earlier commands finished.

    The caller may set `note`, which is shown after the counts, and `total`.
    """

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self.label, self.total, self.done, self.failed, self.note = label, total, done, 0, ""
        self.at_start = done
        self._started = self._logged = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress as rich
            from rich.console import Console
            from rich.table import Column

            whole = Column(no_wrap=True, overflow="ignore")  # a narrow terminal shortens the note alone
            rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            columns = (
                rich.TextColumn("{task.description}", table_column=whole),
                rich.BarColumn(bar_width=10, table_column=whole),
                rich.MofNCompleteColumn(table_column=whole),
                rich.TimeElapsedColumn(table_column=whole),
                rich.TimeRemainingColumn(table_column=whole),
                rich.TextColumn("{task.fields[note]}", table_column=rest),
            )
            self._bar = rich.Progress(*columns, console=Console(stderr=True), expand=True)
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            if self.total is None:
                self._bar.update(self._task, total=self.done)  # or the bar would go on pulsing
            self._bar.stop()
        else:
            say(self.line())

    def update(self, done: int = 0, failed: int = 0) -> None:
        """Adds to the counts and refreshes the display."""
        self.done += done
        self.failed += failed
        if self._bar:
            self._bar.update(self._task, completed=self.done, total=self.total, note=self._notes())
        elif time.monotonic() - self._logged >= LOG_INTERVAL:
            self._logged = time.monotonic()
            say(self.line())

    def line(self) -> str:
        """The state as one line: `generate: 120/400, 12.3/s, 3 failed, ..., 23 s left`."""
        rate = (self.done - self.at_start) / max(time.monotonic() - self._started, 1e-9)
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        left = ((self.total or 0) - self.done) / rate if rate else 0
        parts = (count, f"{rate:.1f}/s", self._notes(), f"{duration(left)} left" if left > 0 else "")
        return f"{self.label}: " + ", ".join(filter(None, parts))

    def _notes(self) -> str:
        return ", ".join(filter(None, (f"{self.failed} failed" if self.failed else "", self.note)))


def duration(seconds: float) -> str:
    """Formats a duration: 42 s, 7 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
