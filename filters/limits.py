"""Limits under which every rule runs: the size of the text and the CPU time.

Every rule should be linear in the length of the text, but that cannot be proven for everything a model may
write. So a text longer than any model's output is not filtered, and a rule that computes for too long is
interrupted. Both leave the trace undecided. Time spent waiting for a processor does not count.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TEXT = 1_000_000  # characters of reasoning and response together, about 250,000 tokens
SECONDS = 3.0  # CPU time of one rule on one trace


class TooSlow(BaseException):
    """A rule used up its CPU time. A BaseException, so that no `except Exception` in a rule catches it."""


@contextmanager
def cpu_seconds(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the body once it has used this much CPU time, even within a regular expression.

    Works in the main thread only, where Python delivers signals; in other threads nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _stop(number: int, frame: object) -> None:
    raise TooSlow
