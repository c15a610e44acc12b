"""How a command wants stages to be run. No option changes a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine.shard import Shard
    from pipeline.engine.stage import Job


@dataclass(frozen=True)
class Options:
    partial: bool = False  # work on what an unfinished input has, and seal it as it is
    again: bool = False  # make a result again that contradicting settings made
    part: tuple[int, int] | None = None  # (i, n): only every n-th shard, from the i-th
    hand_out: Callable[[Job, Sequence[Shard]], None] | None = None  # an executor other than the local one


NO_OPTIONS = Options()
