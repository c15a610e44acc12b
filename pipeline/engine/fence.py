"""How long this process may start new work items.

A worker of a cluster that is frozen or cut off is taken for lost, and its shards are handed to another. When
it comes back, it must not go on asking a paid model for what the other one asks for. So it may start an item
only within some seconds of the last word from whoever hands out the shards. Elsewhere there is no limit.
"""

from __future__ import annotations

import math
import time

_until = math.inf  # of the monotonic clock


def allow_until(moment: float) -> None:
    """Sets the moment of the monotonic clock after which no item starts."""
    global _until
    _until = moment


def passed() -> bool:
    """Whether the shards of this process may be another's by now."""
    return time.monotonic() > _until
