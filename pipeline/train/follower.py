"""Node 1 and later of a training over several nodes: trains when node 0 says so, and ends when it ends.

Writes nothing but a log: node 0 (stage.py) holds the lock, prepares the examples and records the result.
"""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.config import Recipe
from pipeline.engine.progress import say
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.train import launcher, nodes
from pipeline.train.job import TrainJob
from pipeline.train.nodes import Link, Message, Nodes
from pipeline.train.stage import LOST_TIMEOUT, POLL_SECONDS, STOP_TIMEOUT, check, model_folder

CONNECT_SECONDS = 1800.0  # node 0 reads all its inputs before it listens
SETTLED_SECONDS = 60.0  # by then node 0 has set aside a model of other settings
VISIBLE_SECONDS = 120.0  # for files of node 0 to be seen here: clients of NFS remember what was not there


def follow(recipe: Recipe, run_dir: Path, place: Nodes) -> None:
    """Trains this node's part of the run's training, to its end.

    Raises UserError, Stopped or KeyboardInterrupt, as node 0 does, unless the training is complete.
    """
    check(recipe)
    model = model_folder(run_dir)
    link = _connected(model, place)
    if link is None:
        say(f"train: node 0 has nothing to train, {model} is there")
        return
    try:
        ended = _train(run_dir, place, link)
    except KeyboardInterrupt:
        link.send(Message(code=130, why="was stopped"))
        raise
    finally:
        link.close()
    if ended.code == 130:
        raise KeyboardInterrupt
    if ended.code:
        raise (UserError if ended.code == 2 else Stopped)(f"{link.peer} {ended.why}")
    say(f"train: node {place.rank} is done")


def _connected(model: Path, place: Nodes) -> Link | None:
    """The connection to node 0; None if the model is complete."""
    say(f"train: node {place.rank} of {place.count} waits for node 0 ({place.host})")
    began = time.monotonic()
    while True:
        if link := nodes.connect(place):
            return link
        waited = time.monotonic() - began
        if waited > SETTLED_SECONDS and model.exists():
            return None
        if waited > CONNECT_SECONDS:
            raise Stopped(f"node 0 ({place.host}, port {place.port + 1}) did not answer")
        time.sleep(POLL_SECONDS)


def _train(run_dir: Path, place: Nodes, link: Link) -> Message:
    """Runs the training processes of this node; returns node 0's last message."""
    started = link.receive(None)
    if started is None or not started.job:
        return started or Message()
    job = _job(run_dir, started.job)
    command = launcher.command(job.train.accelerate | place.arguments, job.file)
    log = run_dir / "logs" / f"train-{place.rank}.log"
    with Child(command, log, launcher.environment(job), STOP_TIMEOUT) as child:
        while child.poll() is None:
            if ended := link.receive(POLL_SECONDS):
                child.stop(STOP_TIMEOUT if ended.code == 130 else LOST_TIMEOUT)
                return ended
        if code := child.poll():
            why = f"failed: its training ended with exit code {code}; the last lines of {log}:\n"
            link.send(Message(code=3, why=why + child.log_tail()))
    return link.receive(None) or Message()


def _job(run_dir: Path, digest: str) -> TrainJob:
    """The job that node 0 wrote, once it and its examples can be seen here. Raises UserError."""
    file = model_folder(run_dir).absolute().with_name("job.json")
    deadline = time.monotonic() + VISIBLE_SECONDS
    while time.monotonic() < deadline:
        if file.exists() and nodes.digest(content := file.read_bytes()) == digest:
            job = TrainJob.model_validate_json(content)
            if job.prepared.exists():
                return job
        time.sleep(POLL_SECONDS)
    raise UserError(f"{file} is not the one of node 0: all nodes need the run's folder under the same path")
