"""Work spread over processes that end with the one that started them, however it ends.

The first thing such a process does is to see to that: before it loads what it works with, which takes
seconds in which its parent may be killed. So this module imports little, and the work comes pickled.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from pipeline.engine.subprocess_guard import PR_SET_PDEATHSIG, prctl
from pipeline.errors import Stopped
from pipeline.hardware import cores

T = TypeVar("T")


def side_by_side(
    work: Callable[..., T], shared: Any, todo: Sequence[tuple[Any, ...]], worth_it: bool
) -> Iterator[T]:
    """What `work(shared, *arguments)` gives for each of the arguments, in their order.

    In as many processes as there are cores, where that is worth it. The first error stops the rest.
    """
    if not worth_it or len(todo) <= 1 or len(cores()) == 1:
        yield from (work(shared, *arguments) for arguments in todo)
        return
    with ProcessPoolExecutor(
        min(len(cores()), len(todo)),
        get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(), pickle.dumps((work, shared))),
    ) as pool:
        try:
            yield from pool.map(_do, todo)
        except BrokenProcessPool:
            raise Stopped("a working process was killed, for want of memory perhaps") from None
        finally:
            pool.shutdown(cancel_futures=True)


_work: Callable[..., Any]  # of a process that was started here, with what all its work shares
_shared: Any


def _begin(parent: int, pickled: bytes) -> None:
    """End with the parent, leave the terminal's Ctrl-C to it, then load the work."""
    global _work, _shared
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be told
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _work, _shared = pickle.loads(pickled)


def _do(arguments: tuple[Any, ...]) -> Any:
    return _work(_shared, *arguments)
