"""Several nodes as one training: node 0 drives, each other node holds a TCP connection to it while it trains.

Node 0 listens on the port after torch's. It says when the examples are prepared and how the training ended; a
node that fails says why. A connection that breaks without a word is a lost node: the kernel notices the end
of a process at once, and a dead machine or cable within `KEEPALIVE`. torch itself would wait for hours.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ValidationError

from pipeline.config.base import Scalar
from pipeline.errors import UserError

# A silent peer is asked after 5 s, then every 5 s, and given up after 20 s; TCP_USER_TIMEOUT is in ms.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
JOIN_SECONDS = 600.0  # for all nodes to come, once node 0 is ready to train
HELLO_SECONDS = 5.0
MESSAGE_BYTES = 64 * 1024
PORTS = range(15_000, 31_000, 2)  # below the ports that Linux gives to outgoing connections


@dataclass(frozen=True)
class Nodes:
    """Where this process is among the nodes of a training."""

    count: int = 1
    rank: int = 0
    host: str = ""  # of node 0
    port: int = 0  # of node 0, for torch; the next one is for the connections of this module

    @property
    def arguments(self) -> dict[str, Scalar]:
        """The arguments of `accelerate launch`; none on a single node."""
        if self.count == 1:
            return {}
        return {
            "num_machines": self.count,
            "machine_rank": self.rank,
            "main_process_ip": self.host,
            "main_process_port": self.port,
        }


def find(given: Mapping[str, object]) -> Nodes:
    """Where arguments of `accelerate launch` place this process. Raises UserError if some are missing."""
    count = machines(given)
    if count == 1:
        return Nodes()
    rank, host, port = (given.get(name) for name in ("machine_rank", "main_process_ip", "main_process_port"))
    if not isinstance(rank, int) or not isinstance(host, str) or not isinstance(port, int):
        raise UserError(
            f"train.accelerate.num_machines = {count}: start `retort train` once on each node by srun, or "
            "give each its machine_rank and node 0's main_process_ip and main_process_port"
        )
    if not 0 <= rank < count:
        raise UserError(f"train.accelerate.machine_rank = {rank}: must be from 0 to {count - 1}")
    return Nodes(count, rank, host, port)


def machines(given: Mapping[str, object]) -> int:
    """The number of nodes. Raises UserError unless it is 1 or more."""
    count = given.get("num_machines", 1)
    if not isinstance(count, int) or count < 1:
        raise UserError(f"train.accelerate.num_machines = {count}: must be 1 or more")
    return count


def of_slurm(environment: Mapping[str, str]) -> dict[str, Scalar]:
    """The arguments of `accelerate launch` for a task that srun started on several nodes; else none.

    Only srun sets the SLURM_STEP_ variables; a batch script has the others too. Raises UserError if srun
    started several tasks on a node.
    """
    count = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    if count == 1:
        return {}
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", count))
    if tasks != count:
        raise UserError(f"srun started {tasks} tasks on {count} nodes: give srun --ntasks-per-node=1")
    return {
        "num_machines": count,
        "machine_rank": int(environment["SLURM_NODEID"]),
        "main_process_ip": first_host(environment["SLURM_STEP_NODELIST"]),
        "main_process_port": PORTS[int(environment["SLURM_JOB_ID"]) % len(PORTS)],
    }


def first_host(nodes: str) -> str:
    """The first host of a node list as Slurm writes it: `gpu[07-09,12],cpu1` begins with gpu07."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]  # at the first comma outside brackets
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)


def digest(job: bytes) -> str:
    """What identifies the content of a job file, so that no node trains an old one."""
    return hashlib.sha256(job).hexdigest()


class Message(BaseModel):
    """What one node tells another; each use sets some of the fields."""

    node: int = 0  # of the sender, in its first message
    host: str = ""
    job: str = ""  # digest of the job file: the examples are prepared, start
    code: int | None = None  # exit code: the sender has ended
    why: str = ""


class Link:
    """One end of a connection: messages as JSON lines."""

    def __init__(self, connected: socket.socket, peer: str) -> None:
        self.peer = peer  # for people
        self._socket, self._received = connected, b""
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # macOS lacks some
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Sends a message; the next `receive` reports a peer that is gone."""
        self._socket.settimeout(HELLO_SECONDS)
        with contextlib.suppress(OSError):
            self._socket.sendall(message.model_dump_json(exclude_defaults=True).encode() + b"\n")

    def receive(self, seconds: float | None = 0) -> Message | None:
        """The next message; None if there is none after these seconds; None waits without limit.

        A peer that is gone, or that sends anything else, counts as one that ended with exit code 3.
        """
        lost = Message(code=3, why="is lost")
        self._socket.settimeout(seconds)
        while b"\n" not in self._received:
            try:
                data = self._socket.recv(MESSAGE_BYTES)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError:
                return lost
            if not data or len(self._received) > MESSAGE_BYTES:
                return lost
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        try:
            return Message.model_validate_json(line)
        except ValidationError:
            return lost

    def close(self) -> None:
        self._socket.close()


def connect(nodes: Nodes) -> Link | None:
    """Connects to node 0 and names this node; None while node 0 does not listen."""
    try:
        connected = socket.create_connection((nodes.host, nodes.port + 1), timeout=HELLO_SECONDS)
    except OSError:
        return None
    link = Link(connected, f"node 0 ({nodes.host})")
    link.send(Message(node=nodes.rank, host=socket.gethostname()))
    return link


class Driver:
    """Node 0's connections to the other nodes. On leaving, tells them how the training ended.

    On a single node there are none, and nothing listens. `job` is the digest of the job file.
    Raises UserError when the port is in use.
    """

    def __init__(self, nodes: Nodes, job: str) -> None:
        self._nodes, self._job = nodes, job
        self._links: dict[int, Link] = {}
        self._started: set[int] = set()
        self._deadline: float | None = None
        self._listener = _listen(nodes.port + 1) if nodes.count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        codes = {type(None): 0, UserError: 2, KeyboardInterrupt: 130}
        first_line = (str(error).splitlines() or [""])[0] or type(error).__name__
        why = "" if error is None else f"ended: {first_line}"
        for link in self._links.values():
            link.send(Message(code=codes.get(type(error), 3), why=why))
            link.close()
        if self._listener is not None:
            self._listener.close()

    def start(self) -> None:
        """Tells the nodes that came, and did not start yet, to train."""
        if self._deadline is None:
            self._deadline = time.monotonic() + JOIN_SECONDS
        for node in self._links.keys() - self._started:
            self._links[node].send(Message(job=self._job))
            self._started.add(node)

    def fault(self) -> str | None:
        """Why the training cannot go on: a node failed, is lost, or did not come. Accepts those that came."""
        self._accept()
        for link in self._links.values():
            if (message := link.receive()) and message.code:
                return f"{link.peer} {message.why}; the same command resumes from the last checkpoint"
        missing = sorted(set(range(1, self._nodes.count)) - self._links.keys())
        if missing and self._deadline is not None and time.monotonic() > self._deadline:
            return f"node {', '.join(map(str, missing))} did not come within {JOIN_SECONDS:.0f} s"
        return None

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                connected, (address, *_) = self._listener.accept()
            except BlockingIOError:
                return
            link = Link(connected, str(address))
            hello = link.receive(HELLO_SECONDS)
            expected = set(range(1, self._nodes.count)) - self._links.keys()
            if hello and hello.code is None and hello.node in expected:
                link.peer = f"node {hello.node} ({hello.host})"
                self._links[hello.node] = link
            else:
                link.close()  # not one of ours, or a second of this rank


def _listen(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as e:
        raise UserError(f"port {port} cannot be used to reach the other nodes: {e.strerror}") from None
    listener.setblocking(False)
    return listener
