"""Runs CPU work in a pool of processes that end with their parent, even if it is killed.

Each process first ties itself to its parent and only then loads what it works with, because loading takes
seconds in which the parent may die. So this module imports little, and the work arrives pickled.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from pipeline.engine.subprocess_guard import PR_SET_PDEATHSIG, prctl
from pipeline.errors import Stopped
from pipeline.hardware import cores

MIN_PARALLEL_ROWS = 4000  # fewer are worked on before other processes have even started
AHEAD = 4

T = TypeVar("T")


def parallel_map(
    function: Callable[..., T], shared: Any, arguments: Iterable[tuple[Any, ...]], rows: int | None
) -> Iterator[T]:
    """Yields `function(shared, *each)` for each of the arguments, in order.

    For more than MIN_PARALLEL_ROWS rows, or None, uses one process per core. Each is at most AHEAD calls
    ahead of the caller, so that results do not pile up. The first error stops the rest.
    """
    processes = len(cores())
    if (rows is not None and rows <= MIN_PARALLEL_ROWS) or processes <= 1:
        yield from (function(shared, *each) for each in arguments)
        return
    with ProcessPoolExecutor(
        processes,
        get_context("spawn"),
        initializer=_start,
        initargs=(os.getpid(), pickle.dumps((function, shared))),
    ) as pool:
        try:
            running: deque[Future[T]] = deque()
            for each in arguments:
                running.append(pool.submit(_call, each))
                if len(running) > AHEAD * processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise Stopped("a worker process was killed, perhaps for lack of memory") from None
        finally:
            pool.shutdown(cancel_futures=True)


_function: Callable[..., Any]  # set once in each worker process
_shared: Any


def _start(parent: int, pickled: bytes) -> None:
    """Ties the process to its parent, leaves Ctrl-C to the parent, then loads the work."""
    global _function, _shared
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl took effect
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _function, _shared = pickle.loads(pickled)


def _call(arguments: tuple[Any, ...]) -> Any:
    return _function(_shared, *arguments)
