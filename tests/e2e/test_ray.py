"""Workers on a Ray cluster of several nodes on this machine: the same bytes, whatever is killed or frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.losses import MAX_LOSSES
from pipeline.engine.store import Output
from pipeline.rows import Trace
from pipeline.train.job import read_steps
from tests.conftest import FakeServer
from tests.e2e.runs import ROOT, SAMPLES, retort, run_stages, sealed, start, write_recipe
from tests.e2e.test_nodes import prepared, steps_done

pytest.importorskip("ray")
pytestmark = pytest.mark.alone

PROBLEMS = 160
CONCURRENCY = 8  # of each worker
LATE = 5  # seconds in which a woken worker may finish what was in flight


class Nodes:
    """A cluster with the driver's node, which runs no worker, and some nodes of one worker each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        from pipeline.engine.ray_cluster import QUICK

        # Ray's workers are nice to other processes, and would starve beside them
        own = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        os.environ |= QUICK | own
        self._node = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._node})
        self.nodes: list[Any] = []

    def grow(self, count: int) -> None:
        while len(self.nodes) < count:
            self.add()

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1, **self._node))

    @property
    def address(self) -> str:
        return str(self.cluster.address)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    yield started
    started.cluster.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeServer, str, Path]]:
    """The fake server, a recipe that asks it, and the run's folder as one process makes it."""
    folder = tmp_path_factory.mktemp("local")
    server = FakeServer("--latency", "0.1")
    recipe = str(write_recipe(folder, server.url, PROBLEMS))
    run_stages(folder, recipe, "ingest", "generate", "filter")
    yield server, recipe, folder / "test"
    server.stop()


def words(nodes: Nodes, workers: int) -> tuple[str, ...]:
    return (
        f"generate.concurrency={CONCURRENCY}",
        f"ray.generate.replicas={workers}",
        f"ray.filter.replicas={workers}",
        "--ray",
        nodes.address,
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    workers: int, nodes: Nodes, local: tuple[FakeServer, str, Path], tmp_path: Path
) -> None:
    server, recipe, alone = local
    nodes.grow(workers)
    before = server.stats()["requests"]
    run_stages(tmp_path, recipe, "ingest")
    for stage in ("generate", "filter"):
        done = retort(tmp_path, stage, recipe, *words(nodes, workers))
        assert done.returncode == 0, done.stderr
        assert sealed(tmp_path / "test" / stage) == sealed(alone / stage)
    assert server.stats()["requests"] - before == PROBLEMS * SAMPLES


def processes_of(part: str) -> dict[int, bytes]:
    """The processes whose command line contains the text."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if part.encode() in (line := (folder / "cmdline").read_bytes()):
                found[int(folder.name)] = line
    return found


def open_files(pid: int) -> set[Path]:
    return {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()}


def busy_workers() -> list[int]:
    """The workers of the raylets that this process has started."""
    found = []
    for pid in processes_of("ray::Worker.work"):
        with suppress(OSError):
            if parent_of(raylet_of(pid)) == os.getpid():
                found.append(pid)
    return sorted(found)


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


raylet_of = parent_of  # of a worker, which it started


def kill_worker(stack: ExitStack) -> None:
    os.kill(busy_workers()[0], signal.SIGKILL)


def kill_first_raylet(stack: ExitStack) -> None:
    kill_raylet(busy_workers()[0])


def kill_raylet(worker: int) -> None:
    raylet = raylet_of(worker)
    os.kill(raylet, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(raylet, 0)  # its workers take one that is not reaped for alive


def freeze_node(stack: ExitStack) -> None:
    """Stops a node with its worker; wakes them when the stage is done."""
    worker = busy_workers()[0]
    stack.callback(time.sleep, LATE)
    for pid in (raylet_of(worker), worker):
        os.kill(pid, signal.SIGSTOP)
        stack.callback(wake, pid)


def freeze_worker(stack: ExitStack) -> None:
    """Stops a worker for longer than its shards stay its own."""
    worker = busy_workers()[0]
    stack.callback(time.sleep, LATE)
    os.kill(worker, signal.SIGSTOP)
    timer = threading.Timer(20, wake, [worker])
    timer.start()
    stack.callback(timer.cancel)
    stack.callback(wake, worker)


def wake(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [kill_worker, kill_first_raylet, freeze_node, freeze_worker])
def test_a_lost_worker_costs_what_was_in_flight(
    fault: Callable[[ExitStack], None], nodes: Nodes, local: tuple[FakeServer, str, Path], tmp_path: Path
) -> None:
    server, recipe, alone = local
    nodes.grow(5)  # two of these faults leave one fewer
    before = server.stats()
    run_stages(tmp_path, recipe, "ingest")
    driver = start(tmp_path, "generate", recipe, *words(nodes, 2))
    output = Output(tmp_path / "test" / "generate", Trace)
    with ExitStack() as stack:
        wait_for(lambda: output.counts().rows > PROBLEMS and len(busy_workers()) == 2, driver)
        fault(stack)
        _, out = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    assert sealed(output.folder) == sealed(alone / "generate")
    assert server.stats()["requests"] - before["requests"] <= PROBLEMS * SAMPLES + 2 * CONCURRENCY


def test_a_killed_driver_is_started_again(
    nodes: Nodes, local: tuple[FakeServer, str, Path], tmp_path: Path
) -> None:
    server, recipe, alone = local
    nodes.grow(2)
    before = server.stats()["requests"]
    run_stages(tmp_path, recipe, "ingest")
    driver = start(tmp_path, "generate", recipe, *words(nodes, 2))
    output = Output(tmp_path / "test" / "generate", Trace)
    wait_for(lambda: output.counts().rows > PROBLEMS, driver)
    driver.kill()
    driver.communicate()
    done = retort(tmp_path, "generate", recipe, *words(nodes, 2))
    assert done.returncode == 0, done.stderr
    assert sealed(output.folder) == sealed(alone / "generate")
    assert server.stats()["requests"] - before <= PROBLEMS * SAMPLES + 4 * CONCURRENCY


def test_no_number_of_lost_workers_ends_a_stage_whose_rows_grow(
    nodes: Nodes, local: tuple[FakeServer, str, Path], tmp_path: Path
) -> None:
    nodes.grow(1)
    _, recipe, _ = local
    one_shard = ("ingest.sources.0.limit=40", "ingest.shard_size=40")
    run_stages(tmp_path, recipe, "ingest", settings=one_shard)
    words = ("generate.concurrency=1", "ray.generate.replicas=1", "--ray", nodes.address)
    driver = start(tmp_path, "generate", recipe, *one_shard, *words)
    output, killed = Output(tmp_path / "test" / "generate", Trace), set[int]()
    for _ in range(MAX_LOSSES + 1):
        rows = output.counts().rows
        wait_for(lambda: output.counts().rows > rows and set(busy_workers()) - killed, driver)  # noqa: B023
        (worker,) = set(busy_workers()) - killed
        os.kill(worker, signal.SIGKILL)
        killed.add(worker)
    _, out = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    assert out.count("its shards are handed out again") == MAX_LOSSES + 1


def test_sigterm_ends_the_driver_and_its_workers(
    nodes: Nodes, local: tuple[FakeServer, str, Path], tmp_path: Path
) -> None:
    _, recipe, _ = local
    nodes.grow(2)
    run_stages(tmp_path, recipe, "ingest")
    driver = start(tmp_path, "generate", recipe, *words(nodes, 2))
    output = Output(tmp_path / "test" / "generate", Trace)
    wait_for(lambda: output.counts().rows > 10, driver)
    driver.send_signal(signal.SIGTERM)
    _, out = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    deadline = time.monotonic() + 30
    while busy_workers():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


def train_on_nodes(nodes: Nodes, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Starts a training on two nodes, of 300 steps: 15 take less than a second."""
    recipe = prepared(folder, "two")
    settings = ("ray.train.replicas=2", "train.micro_batch_size=4", "train.epochs=60", "--ray", nodes.address)
    return start(folder, "train", str(recipe), *settings, env={"OMP_NUM_THREADS": "1"}), folder / "two"


def test_a_training_goes_on_without_a_lost_node(nodes: Nodes, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    nodes.grow(len(nodes.nodes) + 3)
    driver, run = train_on_nodes(nodes, tmp_path)
    wait_for(lambda: steps_done(run) >= 6, driver)
    log = run / "logs" / "train-node-1.log"
    (follower,) = (pid for pid in processes_of("ray::_work") if log in open_files(pid))
    kill_raylet(follower)
    _, out = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    assert "starting again on the nodes that are left" in out
    steps = read_steps(run / "train" / "log.jsonl")
    assert steps[-1].step == steps[-1].steps == len({s.step for s in steps})


def test_sigterm_saves_a_checkpoint_of_a_training_on_nodes(nodes: Nodes, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    nodes.grow(len(nodes.nodes) + 2)
    driver, run = train_on_nodes(nodes, tmp_path)
    wait_for(lambda: steps_done(run) >= 2, driver)
    driver.send_signal(signal.SIGTERM)
    _, out = driver.communicate(timeout=120)
    assert driver.returncode == 130, out
    assert "saving a checkpoint before stopping" in out
    assert list((run / "train" / "checkpoints").glob("checkpoint-*"))
    assert not (run / "train" / "model").exists()


def test_a_cluster_for_one_command_runs_on_this_machine(
    local: tuple[FakeServer, str, Path], tmp_path: Path
) -> None:
    _, recipe, alone = local
    run_stages(tmp_path, recipe, "ingest")
    done = retort(tmp_path, "generate", recipe, "--ray", "local")
    assert done.returncode == 0, done.stderr
    assert sealed(tmp_path / "test" / "generate") == sealed(alone / "generate")
