"""Runs a stage on several nodes of a Ray cluster that work together, such as a training.

A placement group reserves the nodes, each gets one task, and the tasks find each other by the address of the
first. If a node is lost, the others end by themselves; all start again on the nodes that the cluster still
has, and the stage resumes from what it saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.cluster import Workers
from pipeline.engine import ray_cluster
from pipeline.engine.losses import MAX_LOSSES, Losses
from pipeline.engine.progress import say
from pipeline.engine.stage import Job, Place
from pipeline.errors import Stopped, UserError, one_line

BEAT_SECONDS = 1.0
ROOM_SECONDS = 60.0  # for the nodes to be free; then a line says what is waited for
SAVE_SECONDS = 600.0  # for the first node to save its work when the command is interrupted


@dataclass(frozen=True)
class Ended:
    """How a node's task ended."""

    error: Exception | None = None  # a UserError or Stopped
    lost: bool = False


def run(address: str, job: Job, table: Workers) -> None:
    """Runs the stage on `table.replicas` nodes, and again after a loss.

    Raises UserError or Stopped, as the stage does.
    """
    ray_cluster.connect(address)
    job = replace(job, run_dir=job.run_dir.absolute(), options=replace(job.options, hand_out=None), say=say)
    losses = Losses()
    while True:
        ended = _attempt(job, table)
        errors = [node.error for node in ended if node.error]
        if not errors:
            return
        mistake = next((e for e in errors if isinstance(e, UserError)), None)
        if mistake or not any(node.lost for node in ended):
            raise mistake or errors[0]
        if losses.add({}, job.stage.saved(job) if job.stage.saved else 0) is not None:
            raise Stopped(
                f"{job.stage.name}: {MAX_LOSSES} times in a row a node was lost before a checkpoint"
            )
        say(f"{job.stage.name}: {errors[0]}; starting again on the nodes that are left")


def _attempt(job: Job, table: Workers) -> list[Ended]:
    """Runs the stage's tasks to their ends, the first node's first."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    count = table.replicas or 1
    group = placement_group([{"CPU": table.cpus, "GPU": table.gpus}] * count, strategy="STRICT_SPREAD")
    try:
        _wait_for_room(group, count, table)
        own: list[dict[str, Any]] = [
            {
                "num_cpus": table.cpus,
                "num_gpus": table.gpus,
                "max_retries": 0,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank),
            }
            for rank in range(count)
        ]
        host, port = ray.get(ray.remote(_free_address).options(**own[0]).remote())
        places = [Place(count, rank, host, port, int(table.gpus)) for rank in range(count)]
        with _printed(_log(job, 0)):
            task = ray.remote(_work)
            return _results([task.options(**own[p.rank]).remote(job, p, os.getcwd()) for p in places])
    finally:
        remove_placement_group(group)  # which ends what still runs in it


def _wait_for_room(group: Any, count: int, table: Workers) -> None:
    patience = time.monotonic() + ROOM_SECONDS
    while not group.wait(BEAT_SECONDS):
        if time.monotonic() > patience:
            patience += 10 * ROOM_SECONDS
            say(f"waiting for {count} nodes of the cluster with {table.gpus:g} GPUs and {table.cpus:g} cores")


def _free_address() -> tuple[str, int]:
    """The address of this node, and a port that is free together with the next one."""
    import ray

    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("", port + 1))
                return ray.util.get_node_ip_address(), port


def _work(job: Job, place: Place, folder: str) -> Ended:
    """Runs on a node: the stage's work as one of several."""
    assert job.stage.work_on_node is not None
    # ray.cancel interrupts the main thread, which does nothing if the cluster was started in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(OSError):
        os.chdir(folder)  # paths of a recipe are relative to where the command was given
    log = _log(job, place.rank)
    log.parent.mkdir(exist_ok=True)
    with log.open("a", buffering=1) as file, contextlib.redirect_stderr(file):
        try:
            job.stage.work_on_node(job, place)
        except (UserError, Stopped) as e:
            return Ended(e)
    return Ended()


def _log(job: Job, rank: int) -> Path:
    """What a node says to people."""
    return job.run_dir / "logs" / f"{job.stage.name}-node-{rank}.log"


def _results(tasks: Sequence[Any]) -> list[Ended]:
    """Waits for all tasks. An interrupt lets the first node save its work; the others end with it."""
    import ray

    try:
        return [_result(task) for task in tasks]
    except KeyboardInterrupt:
        ray.cancel(tasks[0])
        ray.wait(list(tasks), num_returns=len(tasks), timeout=SAVE_SECONDS)
        raise


def _result(task: Any) -> Ended:
    import ray
    from ray.exceptions import RayError, RayTaskError

    while not ray.wait([task], timeout=BEAT_SECONDS)[0]:
        pass
    try:
        ended: Ended = ray.get(task)
    except RayTaskError:
        raise  # a bug, with its traceback
    except RayError as e:
        return Ended(Stopped(f"a node is lost: {one_line(e)}"), lost=True)
    return ended


@contextlib.contextmanager
def _printed(log: Path) -> Iterator[None]:
    """Prints what is added to the log meanwhile."""
    import threading

    ended = threading.Event()

    def copy() -> None:
        offset = log.stat().st_size if log.exists() else 0
        while True:
            last = ended.is_set()
            if log.exists():
                with log.open("rb") as file:
                    file.seek(offset)
                    sys.stderr.write((new := file.read()).decode("utf-8", "replace"))
                    offset += len(new)
            if last:
                return
            ended.wait(BEAT_SECONDS)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
