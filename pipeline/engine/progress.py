"""How far a stage is: a bar in a terminal, a plain line every ten seconds in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

EVERY = 10.0  # seconds between two plain lines


def say(text: str) -> None:
    """One line for people. What others wrote in it cannot drive the terminal."""
    print(plain(text), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """Text that cannot drive a terminal: control characters but newline and tab are shown as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


class Progress:
    """Counts units done and failed. `total` may be unknown; `done` starts at what an earlier try finished.

    `note` is shown beside the counts; whoever knows more than they say sets it.
    """

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self.label, self.total, self.done, self.failed, self.note = label, total, done, 0, ""
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
            say(self.line())

    def update(self, done: int = 0, failed: int = 0) -> None:
        """Count further units."""
        self.done += done
        self.failed += failed
        if self._bar:
            self._bar.update(self._task, completed=self.done, total=self.total, note=self._notes())
        elif time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            say(self.line())

    def line(self) -> str:
        """All of it as text: `generate: 120/400, 12.3/s, 3 failed, ..., 23 s left`."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (self.done - self.at_start) / seconds
        of = f"/{self.total}" if self.total is not None else ""
        left = ((self.total or 0) - self.done) / rate if rate else 0
        parts = (
            f"{self.done}{of}",
            f"{rate:.1f}/s",
            self._notes(),
            f"{duration(left)} left" if left > 0 else "",
        )
        return f"{self.label}: " + ", ".join(filter(None, parts))

    def _notes(self) -> str:
        return ", ".join(filter(None, (f"{self.failed} failed" if self.failed else "", self.note)))


def duration(seconds: float) -> str:
    """For people: 42 s, 7 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
