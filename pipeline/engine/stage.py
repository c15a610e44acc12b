"""What a stage is, and the job that its functions get.

A `Stage` is data. It says which shards it makes and how a worker brings one to sealed. It never knows how
many workers there are, or who hands out the shards. `execute.py` does the rest for all stages: inputs,
settings, locks, results of earlier settings, counts, events.

A stage's functions are functions of a module, or partials of them, so a job can be sent to other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.engine.manifest import Manifest, difference
from pipeline.engine.options import NO_OPTIONS, Options
from pipeline.engine.progress import Progress, say
from pipeline.engine.shard import Shard
from pipeline.engine.store import Output
from pipeline.rows import Row


def _no_stages(recipe: Recipe, run_dir: Path) -> Iterable[Stage]:
    return ()


@dataclass(frozen=True)
class Place:
    """Where a process is among the nodes that work together on a stage."""

    count: int  # of nodes
    rank: int
    host: str  # of node 0
    port: int  # of node 0; the next one is free too
    gpus: int  # of each node


@dataclass(frozen=True)
class Stage:
    name: str  # also its folder within the run: "filter", "evaluate/held_out/student/generate"
    version: int  # raised when the same settings give another output
    row: type[Row]
    settings: Callable[[Recipe], dict[str, Any]]  # everything that changes the output, as plain JSON values
    check: Callable[[Recipe], None]  # finds mistakes before any work; raises UserError
    reads: tuple[Stage, ...] = ()  # its inputs
    shards_from: str | None = None  # the input with the same shards, one to one
    shards: tuple[str, ...] | None = None  # or their names; None, too: `prepare` writes them
    prepare: Callable[[Job], Any] | None = None  # done once, before any shard; every worker gets its value
    work: Callable[[Job, Iterable[Shard]], None] | None = None  # brings the shards it is handed to sealed
    # The same as `work`, by one of several nodes that work on all shards together
    work_on_node: Callable[[Job, Place], None] | None = None
    saved: Callable[[Job], int] | None = None  # how far that has come on disk; it grows
    report: Callable[[Job], dict[str, Any]] | None = None  # the manifest's summary of the sealed shards
    # Whether it waits for paid answers: one worker then works on all of its shards at once. Of other stages a
    # worker process takes one shard after the other.
    asks_models: bool = False
    one_worker: bool = False  # hands all shards to one worker of this process, which holds a model in memory
    free: bool = False  # costs no tokens: made again by itself when settings or inputs changed
    # The setting that forbids to take over rows of other settings, as "temperature: 0.6 -> 0.9"; "" if none
    contradiction: Callable[[Manifest, Manifest], str] = difference
    key: tuple[str, ...] = ("id",)  # the columns that identify a paid row among those of earlier results
    # Stages nested in this one, each with its own folder
    substages: Callable[[Recipe, Path], Iterable[Stage]] = _no_stages

    def output(self, run_dir: Path) -> Output:
        return Output(run_dir / self.name, self.row)


class ShareDone(Exception):
    """This process has done its share of a nested stage; others are still working on theirs."""


@dataclass
class Job:
    """The arguments of a stage's functions."""

    stage: Stage
    recipe: Recipe
    run_dir: Path
    options: Options = NO_OPTIONS
    prepared: Any = None  # the value of the stage's `prepare`
    say: Callable[[str], None] = field(default=say, compare=False)

    @cached_property
    def output(self) -> Output:
        return self.stage.output(self.run_dir)

    @cached_property
    def inputs(self) -> dict[str, Output]:
        return {given.name: given.output(self.run_dir) for given in self.stage.reads}

    @property
    def logs(self) -> Path:
        """The folder of logs; each part has one of its own."""
        part = self.options.part
        return self.run_dir / "logs" / (f"part-{part[0]}" if part else "")

    def share(self) -> list[Shard]:
        """The shards that this command brings to sealed: all of them, or every n-th."""
        first, step = self.options.part or (0, 1)
        return self.output.shards()[first::step]

    def input_shard(self, shard: Shard, name: str | None = None) -> Shard:
        """The shard of an input from which a shard of this stage is made."""
        given = self.inputs[name or self.stage.shards_from or ""]
        return given.shard(shard.name)

    def progress(self, total: int | None) -> Progress:
        return Progress(self.stage.name, total, self.output.counts().rows)
