"""Hands the shards of a stage to workers on a Ray cluster.

This process is the driver: it starts the workers and one arbiter, which says whose a shard is. A worker is an
actor in a process of its own. It asks the arbiter for one shard after the other and runs the stage's `work`
on them. Ray says which workers are lost; their shards are handed out again. The folder says what is done, so
a driver that is lost is started again and goes on.

A lost worker may be alive, frozen or cut off. It cannot harm what is stored, because every owner of a shard
writes files of its own. By these files it sees that another one has begun with its shards, and then starts no
further item (`scheduler.py`); so at most what was in flight is asked for twice.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.config.cluster import Workers
from pipeline.engine import ray_cluster, ray_nodes
from pipeline.engine.executor import run_here
from pipeline.engine.losses import MAX_LOSSES, Losses
from pipeline.engine.progress import Progress, say
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.errors import Stopped, UserError, one_line

BEAT_SECONDS = 1.0
NAME_SECONDS = 15.0  # in which Ray ends what a killed driver left
COUNT_SECONDS = 5.0
ROOM_SECONDS = 60.0  # for the first worker to start; then a line says what it waits for


class Arbiter:
    """Says which worker a shard belongs to. An actor on the driver's node that ends with the driver."""

    def __init__(self, shards: Sequence[str]) -> None:
        self._waiting = deque(shards)
        self._held: dict[str, list[str]] = {}
        self._lost: set[str] = set()

    def next_shard(self, worker: str) -> str | None:
        """The next shard for the worker; None if there is none, or if the worker was taken for lost."""
        if worker in self._lost or not self._waiting:
            return None
        shard = self._waiting.popleft()
        self._held.setdefault(worker, []).append(shard)
        return shard

    def lose(self, worker: str) -> list[str]:
        """Takes a worker for lost: it gets no shard any more. Returns those that it was handed."""
        self._lost.add(worker)
        return self._held.pop(worker, [])

    def put_back(self, shards: Sequence[str]) -> None:
        """Hands these shards out again, first of all."""
        self._waiting.extendleft(shards)

    def state(self) -> tuple[int, set[str]]:
        """The number of shards not handed out, and the workers that were handed any."""
        return len(self._waiting), set(self._held)


@dataclass(frozen=True)
class Outcome:
    """How a worker ended, where it was not lost."""

    kind: Literal["done", "stopped", "mistake"]
    why: str = ""


class Worker:
    """Works on shards, one after the other or side by side as the stage likes. An actor."""

    def __init__(self, folder: str) -> None:
        with suppress(OSError):
            os.chdir(folder)  # paths of a recipe are relative to where the command was given

    def work(self, job: Job, prepared: Any, arbiter: Any, name: str) -> Outcome:
        """Works until no shard is left. `prepared`: the value of the stage's `prepare`."""
        assert job.stage.work is not None
        job.prepared = prepared
        try:
            job.stage.work(job, _pulled(job, arbiter, name))
        except UserError as e:
            return Outcome("mistake", str(e))
        except Stopped as e:
            return Outcome("stopped", str(e))
        return Outcome("done")


def _pulled(job: Job, arbiter: Any, name: str) -> Iterator[Shard]:
    """Shards from the arbiter, as the work asks for them."""
    import ray

    shards = {shard.name: shard for shard in job.output.shards()}
    while (next_name := ray.get(arbiter.next_shard.remote(name))) is not None:
        yield shards[next_name]


def hand_out(address: str, job: Job, shards: Sequence[Shard]) -> None:
    """Brings the shards to sealed on the cluster. A stage of one shard runs here, or on nodes of its own.

    Raises UserError or Stopped, as a worker does.
    """
    if job.stage.shards_from is None:
        nodes: Workers | None = getattr(job.recipe.ray, job.stage.name, None)
        if nodes is not None and job.stage.work_on_node is not None:
            ray_nodes.run(address, job, nodes)
        else:
            run_here(job, shards)
        return
    ray_cluster.connect(address)
    driver = _Driver(job, shards)
    with Progress(f"{job.stage.name} shards", len(shards)) as progress:
        try:
            driver.run(progress)
        finally:
            driver.end()


class _Driver:
    """The workers of one stage."""

    def __init__(self, job: Job, shards: Sequence[Shard]) -> None:
        import ray

        self._open = {shard.name: shard for shard in shards}
        table: Workers = getattr(job.recipe.ray, job.stage.name.partition("/")[0], Workers())
        default = 1 if job.stage.asks_models else int(ray.cluster_resources().get("CPU", 1))
        self._replicas = min(table.replicas or max(1, default), len(shards))
        self._resources = {"num_cpus": table.cpus, "num_gpus": table.gpus}
        folder, options = job.run_dir.absolute(), replace(job.options, hand_out=None)
        self._job = replace(job, run_dir=folder, options=options, prepared=None, say=say)
        self._prepared = ray.put(job.prepared)
        self._arbiter = _start_arbiter(f"{folder}/{job.stage.name}", list(self._open))
        self._running: dict[Any, _Running] = {}  # by the reference to the outcome
        self._losses = Losses()
        self._started = self._sealed = 0
        self._next_count = 0.0

    def run(self, progress: Progress) -> None:
        """Runs workers until every shard was handed out and worked on."""
        import ray

        for replica in range(self._replicas):
            self._start(replica)
        patience = time.monotonic() + ROOM_SECONDS
        while not self._nothing_left():
            ended, _ = ray.wait(list(self._running), timeout=BEAT_SECONDS)
            for outcome in ended:
                self._collect(outcome)
            if time.monotonic() > self._next_count:
                self._count(progress)
            if time.monotonic() > patience and not ray.get(self._arbiter.state.remote())[1]:
                patience = math.inf
                say(f"no worker has started yet; has the cluster room for {self._resources}?")
        self._count(progress)

    def end(self) -> None:
        """Ends all workers and the arbiter."""
        import ray

        for worker in self._running.values():
            ray.kill(worker.actor)
        ray.kill(self._arbiter)

    def _start(self, replica: int) -> None:
        import ray

        self._started += 1
        name = f"worker {self._started}"
        options = {"max_restarts": 0, "scheduling_strategy": "SPREAD", **self._resources}
        actor: Any = ray.remote(Worker).options(**options).remote(os.getcwd())
        # It may get any shards, but expects a share of them, for its progress and its tolerable failures
        part = replace(self._job.options, part=(replica, self._replicas))
        job = replace(self._job, options=part)
        outcome = actor.work.remote(job, self._prepared, self._arbiter, name)
        self._running[outcome] = _Running(replica, name, actor)

    def _nothing_left(self) -> bool:
        """Whether no shard is waiting or held by a worker that may work on it."""
        import ray

        waiting, holders = ray.get(self._arbiter.state.remote())
        return not waiting and holders.isdisjoint(worker.name for worker in self._running.values())

    def _collect(self, reference: Any) -> None:
        """Takes the outcome of a worker that ended."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        worker = self._running.pop(reference)
        try:
            outcome: Outcome = ray.get(reference)
        except RayTaskError:
            raise  # a bug, with its traceback
        except RayError as e:
            outcome = Outcome("stopped", f"lost: {one_line(e)}")
        if outcome.kind == "mistake":
            raise UserError(outcome.why)
        if outcome.kind == "stopped":
            self._replace(worker, outcome.why)
        ray.kill(worker.actor)

    def _replace(self, lost: _Running, why: str) -> None:
        """Hands out again what a lost worker held, and starts another one for it.

        Raises Stopped when too many were lost.
        """
        import ray

        handed = ray.get(self._arbiter.lose.remote(lost.name))
        held = [name for name in handed if not self._open[name].sealed]
        too_many = self._losses.add({name: self._open[name].count().rows for name in held}, self._sealed)
        if too_many is not None:
            shard = f" with {too_many}" if too_many else ""
            raise Stopped(f"{MAX_LOSSES} workers in a row ended{shard} and added no row, the last: {why}")
        say(f"{lost.name}: {why}; its shards are handed out again")
        ray.get(self._arbiter.put_back.remote(held))
        if ray.get(self._arbiter.state.remote())[0]:
            self._start(lost.replica)

    def _count(self, progress: Progress) -> None:
        """Counts the sealed shards, by one listing of the folder, which may be on a slow disk."""
        self._next_count = time.monotonic() + COUNT_SECONDS
        sealed = len({path.stem for path in self._job.output.folder.glob("*.parquet")} & self._open.keys())
        progress.note = f"{len(self._running)} workers"
        progress.update(done=sealed - self._sealed)
        self._sealed = sealed


@dataclass(frozen=True)
class _Running:
    replica: int
    name: str
    actor: Any


def _start_arbiter(name: str, shards: Sequence[str]) -> Any:
    """The arbiter of this name. Raises UserError if another driver has one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": name, "num_cpus": 0, "scheduling_strategy": here}
    deadline = time.monotonic() + NAME_SECONDS
    while True:
        try:
            return ray.remote(Arbiter).options(**options).remote(shards)
        except ValueError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{name}: another command works on it on this cluster; wait or stop it"
                ) from None
        time.sleep(BEAT_SECONDS)
