"""Names one process's attempt at the work, so that two processes on one shard never share a file.

The name is unique over hosts and time, and later attempts sort after earlier ones.
"""

from __future__ import annotations

import os
import secrets
import time
from functools import cache

PATTERN = r"[0-9a-f]{22}"


def this_owner() -> str:
    """The name of this process's attempt: the time of its start in hexadecimal, and a random suffix."""
    return _name_of(os.getpid())


@cache
def _name_of(pid: int) -> str:
    """Cached by process id: a forked process is an owner of its own."""
    return f"{time.time_ns():016x}{secrets.token_hex(3)}"
