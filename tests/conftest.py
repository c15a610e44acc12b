"""Fixtures that several tests share: the fake OpenAI-compatible server, as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


class FakeServer:
    """A running fake server, by default the one with faults; `url` ends in /v1."""

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, module: str = "tests.faulty_server"
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            self.process.communicate()
            raise RuntimeError(f"the fake server ended with code {self.process.returncode}")

    def stats(self) -> dict[str, Any]:
        """requests, outcomes (status or fault -> requests), answered (request -> times), most_in_flight."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats", timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)
        assert self.process.stdout
        self.process.stdout.close()


StartFakeServer = Callable[..., FakeServer]


@pytest.fixture
def fake_server() -> Iterator[StartFakeServer]:
    """Starts servers that stop after the test: start("--latency", "0.05", faults={"429": 0.2}, env={...})."""
    with ExitStack() as stack:

        def start(*arguments: str, faults: dict[str, float] | None = None, **kwargs: Any) -> FakeServer:
            server = FakeServer("--faults", json.dumps(faults or {}), *arguments, **kwargs)
            stack.callback(server.stop)
            return server

        yield start


def pytest_configure(config: pytest.Config) -> None:
    """Gives each worker that runs what is alone cores of its own, also for the processes that it starts.

    Two trainings or servers on the same cores would slow each other down: their threads wait in loops.
    """
    worker = getattr(config, "workerinput", None)
    if worker and config.option.markexpr == "alone":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[int(worker["workerid"][2:]) :: worker["workercount"]] or cores)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that run whole commands, or need cores of their own, as slow."""
    for item in items:
        if "e2e" in item.path.parts or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.slow)
