from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from http.client import IncompleteRead, RemoteDisconnected
from itertools import count
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.conftest import FakeServer
from tests.faulty_server import parse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartFakeServer

CLOSED = (IncompleteRead, RemoteDisconnected, ConnectionResetError)


def post(server: FakeServer, content: str, seed: int = 0, model: str = "fake", **fields: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "seed": seed} | fields
    request = urllib.request.Request(server.url + "/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def test_a_continuation_depends_on_no_other_request(fake_server: StartFakeServer) -> None:
    used, fresh = fake_server(), fake_server()
    for seed in range(20):
        post(used, "What is 3 + 4?", seed=seed)
    prefix = {
        "role": "assistant",
        "content": "<think>\nI look for the numbers in the question. I work it out",
    }
    messages = [{"role": "user", "content": "What is 3 + 4?"}, prefix]
    continuation = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    answers = [post(used, "", seed=seed, **continuation) for seed in range(20)]
    assert answers == [post(fresh, "", seed=seed, **continuation) for seed in range(20)]
    assert len(set(answers)) > 5
    assert all(b"step by step" in answer for answer in answers)


def status_of(server: FakeServer, *args: str, **kwargs: Any) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, *args, **kwargs)
    with refused.value as answer:
        return answer.code


async def post_many(server: FakeServer, seeds: range, **fields: Any) -> list[tuple[int, str | None, bytes]]:
    """Sends all requests at once. Returns status, Retry-After and body of each answer."""

    async def one(session: aiohttp.ClientSession, seed: int) -> tuple[int, str | None, bytes]:
        messages = [{"role": "user", "content": "What is 12 + 30?"}]
        body = {"model": "fake", "messages": messages, "seed": seed} | fields
        async with session.post(server.url + "/chat/completions", json=body) as answer:
            return answer.status, answer.headers.get("Retry-After"), await answer.read()

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(one(session, seed) for seed in seeds))


def test_the_same_request_gets_the_same_bytes_from_any_process(fake_server: StartFakeServer) -> None:
    one, other = fake_server(), fake_server()
    assert post(one, "1 + 1", seed=5) == post(one, "1 + 1", seed=5) == post(other, "1 + 1", seed=5)
    assert post(one, "1 + 1", seed=6) != post(one, "1 + 1", seed=5)
    assert post(one, "1 + 1", seed=5) != post(fake_server("--seed=1"), "1 + 1", seed=5)


# ------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("stream", [False, True])
def test_every_status_is_sent_and_counted(fake_server: StartFakeServer, stream: bool) -> None:
    server = fake_server("--retry-after=7.5", faults=dict.fromkeys(("429", "500", "502", "503", "529"), 0.2))
    answers = asyncio.run(post_many(server, range(60), stream=stream))
    waits = {status: retry for status, retry, _ in answers}
    assert waits == {429: "7.5", 500: None, 502: None, 503: "7.5", 529: "7.5"}
    assert server.stats()["outcomes"] == Counter(str(status) for status, _, _ in answers)
    assert server.stats()["answered"] == {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_dropped_or_stalled_response_starts_and_a_hanging_one_does_not(
    fake_server: StartFakeServer, stream: bool
) -> None:
    for fault, starts in {"dropped": True, "stall": True, "hang": False}.items():
        server = fake_server("--hang=0.1", faults={fault: 1})
        with pytest.raises(CLOSED) as closed:
            post(server, "1 + 1", stream=stream)
        assert isinstance(closed.value, IncompleteRead) == starts
        assert (server.stats()["outcomes"], server.stats()["answered"]) == ({fault: 1}, {})


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_without_a_limit_it_hangs_forever(fake_server: StartFakeServer, fault: str) -> None:
    async def wait(url: str) -> None:
        async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
            await answer.read()

    server = fake_server(faults={fault: 1})
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "1 + 1"}]})
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(wait(server.url + "/chat/completions"), 0.5))
    assert server.stats()["outcomes"] == {fault: 1}


def test_answers_without_content_are_counted_as_answered(fake_server: StartFakeServer) -> None:
    server = fake_server(faults={"empty": 0.5, "tools": 0.5})
    answers = [json.loads(body) for _, _, body in asyncio.run(post_many(server, range(20)))]
    assert {answer["choices"][0]["message"].get("content") for answer in answers} == {None}
    assert {answer["choices"][0]["finish_reason"] for answer in answers} == {"stop", "tool_calls"}
    stats = server.stats()
    assert set(stats["outcomes"]) == {"empty", "tools"}
    assert len(stats["answered"]) == stats["requests"] == 20


def test_a_request_for_log_probabilities_can_be_ignored(fake_server: StartFakeServer) -> None:
    answer = json.loads(post(fake_server("--no-logprobs"), "1 + 1", logprobs=True))
    assert answer["choices"][0]["logprobs"] is None


def test_garbage_is_not_json(fake_server: StartFakeServer) -> None:
    assert post(fake_server(faults={"garbage": 1}), "1 + 1").startswith(b"<html>")


def test_a_fault_is_chosen_again_for_each_attempt(fake_server: StartFakeServer) -> None:
    server = fake_server("--faulty-attempts", "2", faults={"500": 1})
    assert [status_of(server, "1 + 1") for _ in range(2)] == [500, 500]
    assert b"The answer is" in post(server, "1 + 1")


def test_it_refuses_what_a_real_server_refuses(fake_server: StartFakeServer) -> None:
    server = fake_server("--too-long", "[long]", "--no-continue", "--model", "a", "--model", "b")
    assert status_of(server, "1 + 1", model="fake") == 404
    assert status_of(server, "[long] 1 + 1", model="b") == 400
    start = {"role": "assistant", "content": "<think>", "prefix": True}
    assert status_of(server, "", model="a", messages=[{"role": "user", "content": "1 + 1"}, start]) == 400
    assert status_of(server, "", model="a", messages="1 + 1") == 400
    locked = fake_server("--key-env", "FAKE_KEY", env={"FAKE_KEY": "secret"})
    assert status_of(locked, "1 + 1") == 401


# ------------------------------------------------------------------------------ pace, limits, absence


def test_with_a_speed_a_stream_comes_in_pieces(fake_server: StartFakeServer) -> None:
    async def arrivals(url: str) -> list[bytes]:
        body = {"model": "fake", "messages": [{"role": "user", "content": "1 + 1"}], "stream": True}
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.content_type == "text/event-stream"
            return [piece async for piece in answer.content.iter_any()]

    slow, quick = fake_server("--speed=20"), fake_server()
    pieces = asyncio.run(arrivals(slow.url + "/chat/completions"))
    assert len(pieces) > 3
    assert b"".join(pieces) == post(quick, "1 + 1", stream=True)


def test_with_a_speed_a_whole_answer_takes_its_time(fake_server: StartFakeServer) -> None:
    server = fake_server("--speed=50", "--latency=0.1")
    before = time.monotonic()
    words = json.loads(post(server, "1 + 1"))["usage"]["completion_tokens"]
    assert time.monotonic() - before > 0.1 + words / 50


def test_more_requests_than_slots_get_429(fake_server: StartFakeServer) -> None:
    async def fill_slots() -> None:
        holding = [asyncio.create_task(post_many(server, range(seed, seed + 1))) for seed in range(3)]
        while server.stats()["outcomes"].get("hang", 0) < 3:
            await asyncio.sleep(0.02)
        assert {answer[:2] for answer in await post_many(server, range(3, 8))} == {(429, "2.0")}
        for task in holding:
            task.cancel()
        await asyncio.wait(holding)

    server = fake_server("--slots=3", "--retry-after=2", "--faulty-attempts=1", faults={"hang": 1})
    asyncio.run(fill_slots())
    assert server.stats()["outcomes"] == {"hang": 3, "429": 5}
    assert b"The answer is" in post(server, "What is 12 + 30?", seed=0)


def test_more_requests_per_minute_than_allowed_get_429(fake_server: StartFakeServer) -> None:
    server = fake_server("--rpm=5")
    assert Counter(status for status, _, _ in asyncio.run(post_many(server, range(8)))) == {200: 5, 429: 3}
    assert status_of(server, "1 + 1") == 429


def test_a_server_that_was_gone_returns_with_its_counts(fake_server: StartFakeServer) -> None:
    async def request_until_back(url: str) -> int:
        """Sends requests until the server was gone and is back. Returns how many were answered."""
        answered, gone = 0, False
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            for seed in count():
                body = {"model": "fake", "messages": [{"role": "user", "content": "1 + 1"}], "seed": seed}
                try:
                    async with session.post(url, json=body) as answer:
                        await answer.read()
                    answered += 1
                    if gone:
                        break
                except aiohttp.ClientConnectionError:
                    gone = True
                await asyncio.sleep(0.01)
        return answered

    server = fake_server("--gone=0.5,0.5")
    answered = asyncio.run(request_until_back(server.url + "/chat/completions"))
    assert answered
    assert len(server.stats()["answered"]) in (answered, answered + 1)  # one may have been dropped at the end


def test_responses_in_flight_are_dropped_when_the_server_goes(fake_server: StartFakeServer) -> None:
    server = fake_server("--gone=1,0.1", "--latency=30")
    with pytest.raises(CLOSED):
        post(server, "1 + 1")


# ------------------------------------------------------------------------------ counts


def test_tokens_answered_are_counted(fake_server: StartFakeServer) -> None:
    server = fake_server(faults={"500": 0.5})
    answers = asyncio.run(post_many(server, range(10)))
    usages = [json.loads(body)["usage"] for status, _, body in answers if status == 200]
    total = {name: sum(usage[f"{name}_tokens"] for usage in usages) for name in ("prompt", "completion")}
    assert server.stats()["tokens"] == total
    asyncio.run(post_many(server, range(10, 20), stream=True))
    assert server.stats()["tokens"]["completion"] > total["completion"]


def test_answered_requests_can_be_counted_after_a_kill(fake_server: StartFakeServer, tmp_path: Path) -> None:
    log = tmp_path / "paid.log"
    server = fake_server("--log", str(log))
    for seed in (1, 2, 2):
        post(server, "1 + 1", seed=seed)
    assert sorted(server.stats()["answered"].values()) == [1, 2]
    server.process.kill()
    assert sorted(Counter(log.read_text().split()).values()) == [1, 2]


def test_the_shipped_server_fails_a_share_of_the_attempts() -> None:
    server = FakeServer("--errors=0.5", "--retry-after=3", module="pipeline.fake_server")
    try:
        answers = asyncio.run(post_many(server, range(60)))
    finally:
        server.stop()
    assert {status: wait for status, wait, _ in answers} == {
        200: None,
        429: "3.0",
        500: None,
        502: None,
        503: "3.0",
    }
    assert 15 < sum(status == 200 for status, _, _ in answers) < 45


@pytest.mark.parametrize(
    "option",
    [
        *(
            f"--faults={faults}"
            for faults in ('{"teapot": 1}', '{"429": 0.9, "500": 0.9}', '{"429": -1}', "[]", "?")
        ),
        *("--words=0", "--slots=x", "--rpm=-1", "--gone=5", "--correct=0.9", "--errors=2"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([option])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 2  # usage and error
