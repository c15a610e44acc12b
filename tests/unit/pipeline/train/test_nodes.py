"""The rank of a process among the nodes of a training, and the messages between the nodes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import Stopped, UserError
from pipeline.train import launcher, nodes
from pipeline.train.nodes import Driver, Link, Message, Nodes, connect, first_host, of_slurm
from pipeline.train.stage import TrainingFailed

STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_NODEID": "2",
}


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a task that srun started on the third of four nodes."""
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("rack[2-3]-n[1,5]", "rack2-n1"),
        ("a[1-2].cluster.org,b", "a1.cluster.org"),
    ],
)
def test_the_first_host_of_a_node_list_is_found(nodelist: str, first: str) -> None:
    assert first_host(nodelist) == first


@pytest.mark.usefixtures("step")
def test_srun_says_which_node_this_is() -> None:
    place = launcher.placement({"num_processes": 32})
    assert (place.count, place.rank, place.host) == (4, 2, "gpu07")
    assert place.port in range(15_000, 31_000)
    assert launcher.processes_per_node({"num_processes": 32}) == 8
    assert launcher.processes({}) == 4


def test_a_batch_script_on_several_nodes_is_one_process() -> None:
    assert of_slurm({"SLURM_JOB_ID": "1", "SLURM_NNODES": "4", "SLURM_NODEID": "0"}) == {}
    assert launcher.placement({}) == Nodes()
    assert Nodes().arguments == {}


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize(
    ("arguments", "environment", "why"),
    [
        (
            {},
            {"SLURM_STEP_NUM_TASKS": "32"},
            "srun started 32 tasks on 4 nodes: give srun --ntasks-per-node=1",
        ),
        ({"num_machines": 2}, {}, "num_machines = 2, but srun started it on 4 nodes"),
        ({"num_processes": 6}, {}, "num_processes = 6 is not a multiple of 4 nodes"),
        ({"num_machines": 0}, {"SLURM_STEP_NUM_NODES": "1"}, "num_machines = 0: must be 1 or more"),
        (
            {"num_machines": 2},
            {"SLURM_STEP_NUM_NODES": "1"},
            "start `retort train` once on each node by srun",
        ),
    ],
)
def test_nodes_that_contradict_each_other_are_rejected(
    arguments: dict[str, Any], environment: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=why):
        launcher.processes(arguments) and launcher.placement(arguments)


def test_only_node_0_tokenizes_the_examples(tmp_path: Any) -> None:
    shared = {"num_processes": 2}
    first, second = (
        launcher.command(shared | Nodes(2, rank, "gpu07", 15_002).arguments, tmp_path / "job.json")
        for rank in (0, 1)
    )
    assert "pipeline.train.trainer.prepare" in first
    assert "pipeline.train.trainer.prepare" not in second
    assert {"--num_machines=2", "--machine_rank=1", "--main_process_ip=gpu07"} <= set(second)
    assert "--main_process_port=15002" in second


def two_nodes() -> tuple[Nodes, Nodes]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Nodes(2, 0, "127.0.0.1", port - 1), Nodes(2, 1, "127.0.0.1", port - 1)


def joined(driver: Driver, place: Nodes) -> Link:
    link = connect(place)
    assert link is not None
    assert driver.fault() is None  # accepts it
    return link


def eventually(get: Callable[[], str | None]) -> str:
    for _ in range(500):
        if found := get():
            return found
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_a_node_starts_when_told_and_hears_how_node_0_ended() -> None:
    first, second = two_nodes()
    assert connect(second) is None  # node 0 does not listen yet
    with Driver(first, "digest") as driver:
        link = joined(driver, second)
        assert link.receive() is None
        driver.start()
        driver.start()
        assert link.receive(5) == Message(job="digest")
    assert link.receive(5) == Message(code=0)
    link.close()


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (Stopped("no memory\nat all"), 3, "ended: no memory"),
        (TrainingFailed("no model"), 3, "ended: no model"),
        (UserError("no examples"), 2, "ended: no examples"),
        (KeyboardInterrupt(), 130, "ended: KeyboardInterrupt"),
    ],
    ids=str,
)
def test_the_reason_why_node_0_ends_is_passed_on(error: BaseException, code: int, why: str) -> None:
    first, second = two_nodes()
    driver = Driver(first, "")
    link = joined(driver, second)
    driver.__exit__(type(error), error, None)
    assert link.receive(5) == Message(code=code, why=why)
    link.close()


def test_node_0_hears_why_a_node_failed_and_that_a_node_is_lost() -> None:
    first, second = two_nodes()
    for last in (Message(code=3, why="failed: no memory"), None):
        with Driver(first, "") as driver:
            link = joined(driver, second)
            if last:
                link.send(last)
            link.close()
            why = eventually(driver.fault)
        assert why.startswith(f"node 1 ({socket.gethostname()}) " + (last.why if last else "is lost"))


def test_a_stranger_and_a_second_node_of_one_rank_are_sent_away() -> None:
    first, second = two_nodes()
    with Driver(first, "") as driver:
        with socket.create_connection((first.host, first.port + 1)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\n")
            assert driver.fault() is None
            assert stranger.recv(10) == b""
        link, twin = joined(driver, second), joined(driver, second)
        assert twin.receive(5) == Message(code=3, why="is lost")
        driver.start()
        assert link.receive(5) == Message()
        for each in (link, twin):
            each.close()


def test_a_node_that_does_not_come_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "JOIN_SECONDS", 0.0)
    first, _ = two_nodes()
    with Driver(first, "") as driver:
        assert driver.fault() is None  # the examples are not prepared
        driver.start()
        assert eventually(driver.fault) == "node 1 did not come within 0 s"


def test_a_port_in_use_is_reported() -> None:
    first, _ = two_nodes()
    with Driver(first, ""), pytest.raises(UserError, match=r"port \d+ cannot be used"):
        Driver(first, "")
