from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from http.client import IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING

import aiohttp
import pytest

from pipeline.fake_server import solve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import FakeServer, StartFakeServer


def ask(server: FakeServer, content: str, seed: int = 0, model: str = "fake") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "seed": seed}
    request = urllib.request.Request(server.url + "/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def status_of(server: FakeServer, *args: str, **kwargs: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, *args, **kwargs)
    return refused.value.code


async def ask_many(server: FakeServer, seeds: range) -> list[str]:
    """The contents of the answers, all asked at once."""

    async def one(session: aiohttp.ClientSession, seed: int) -> str:
        body = {"model": "fake", "messages": [{"role": "user", "content": "What is 12 + 30?"}], "seed": seed}
        async with session.post(server.url + "/chat/completions", json=body) as answer:
            choice = (await answer.json())["choices"][0]
            return f"{choice['finish_reason']}: {choice['message']['content']}"

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(one(session, seed) for seed in seeds))


@pytest.mark.parametrize(
    ("question", "result"),
    [
        ("What is 12 + 30?", 42),
        ("Calculate 7*8.", 56),
        ("3 \u00d7 4 =", 12),
        ("5 - 9", -4),
        ("4 + 3 - 2 =", 5),
        ("Anna has 7 apples and buys 5 more. How many now?", 12),
        ("Tom had 9 pens and gave 4 to Kim. How many are left?", 5),
        ("There are 6 boxes of 8 eggs. How many eggs?", 48),
        ("Why?", None),
        ("9" * 10_000, 999_999_999_999_999 * 2),
    ],
)
def test_it_can_do_one_step_arithmetic(question: str, result: int | None) -> None:
    assert solve(question) == result


def test_the_same_request_gets_the_same_bytes_from_any_process(fake_server: StartFakeServer) -> None:
    one, other = fake_server(), fake_server()
    assert ask(one, "1 + 1", seed=5) == ask(one, "1 + 1", seed=5) == ask(other, "1 + 1", seed=5)
    assert ask(one, "1 + 1", seed=6) != ask(one, "1 + 1", seed=5)


def test_right_malformed_and_truncated_answers_come_in_their_shares(fake_server: StartFakeServer) -> None:
    server = fake_server("--right", "0.5", "--malformed", "0.2", "--truncated", "0.1")
    answers = asyncio.run(ask_many(server, range(400)))
    kinds = Counter(
        "truncated"
        if a.startswith("length")
        else "malformed"
        if "</think>" not in a
        else a.rpartition(" ")[2] == "42."
        for a in answers
    )
    assert 160 < kinds[True] < 240  # right
    assert 50 < kinds["malformed"] < 110
    assert 20 < kinds["truncated"] < 60
    assert 50 < kinds[False] < 110  # wrong


def test_every_fault_is_played_and_counted(fake_server: StartFakeServer) -> None:
    for fault, status in {"429": 429, "500": 500, "503": 503}.items():
        server = fake_server(faults={fault: 1})
        assert status_of(server, "1 + 1") == status
        assert server.stats()["outcomes"] == {fault: 1}
    server = fake_server(faults={"garbage": 1})
    with pytest.raises(json.JSONDecodeError):
        json.loads(ask(server, "1 + 1"))
    server = fake_server(faults={"cut": 1})
    with pytest.raises((IncompleteRead, RemoteDisconnected, ConnectionResetError)):
        ask(server, "1 + 1")
    assert server.stats()["answered"] == {}


def test_a_fault_is_drawn_again_for_each_try(fake_server: StartFakeServer) -> None:
    server = fake_server("--faulty-tries", "2", faults={"500": 1})
    assert [status_of(server, "1 + 1") for _ in range(2)] == [500, 500]
    assert b"The answer is" in ask(server, "1 + 1")


def test_it_refuses_what_a_real_server_refuses(fake_server: StartFakeServer) -> None:
    server = fake_server("--too-long", "[long]", "--model", "a", "--model", "b")
    assert status_of(server, "1 + 1", model="fake") == 404
    assert status_of(server, "[long] 1 + 1", model="b") == 400
    locked = fake_server("--key-env", "FAKE_KEY", env={"FAKE_KEY": "secret"})
    assert status_of(locked, "1 + 1") == 401


def test_what_was_paid_for_can_be_counted_even_after_a_kill(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    log = tmp_path / "paid.log"
    server = fake_server("--log", str(log))
    for seed in (1, 2, 2):
        ask(server, "1 + 1", seed=seed)
    assert sorted(server.stats()["answered"].values()) == [1, 2]
    server.process.kill()
    assert sorted(Counter(log.read_text().split()).values()) == [1, 2]


@pytest.mark.parametrize(
    "faults", ['{"teapot": 1}', '{"429": 0.9, "500": 0.9}', '{"429": -1}', "[]", "no JSON"]
)
def test_faults_that_cannot_be_played_are_refused_in_one_line(faults: str) -> None:
    command = [sys.executable, "-m", "pipeline.fake_server", "--faults", faults]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
