"""The bounds under which every rule runs: the size of a text, and the time of the processor.

Every rule is meant to be linear in a text's length; nobody can prove that of all that a model may write. So a
text that is longer than any model's is not judged, and a rule that computes for too long is stopped. Both are
"cannot tell", never "wrong". Time that the machine gave to others does not count.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TEXT = 1_000_000  # characters of a thought and its response: 250,000 tokens
SECONDS = 3.0  # of the processor for one rule on one trace


class TooSlow(BaseException):
    """A rule has used up its time. No `except Exception` within the rule may stop it."""


@contextmanager
def processor_seconds(seconds: float) -> Iterator[None]:
    """Raise TooSlow in what is computed here for longer, a regular expression's search included.

    Only in a process's main thread, where signals arrive; in other threads nothing is bounded here.
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
