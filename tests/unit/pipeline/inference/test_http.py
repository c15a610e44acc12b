from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from aiohttp import web

from pipeline.errors import UserError
from pipeline.inference.http import (
    OVERHEAD_BYTES,
    SECONDS_PER_PIECE,
    STALLS_BEFORE_TEXT,
    RequestFailed,
    ResponseLimits,
)
from tests.serving import (
    SAMPLING,
    Script,
    answered,
    as_response,
    chat,
    client,
    complete,
    drip,
    events,
    serving,
    stop,
)

KEEP_ALIVE = b": keep-alive\n\n"


def event(text: str) -> bytes:
    return events({"content": text}, done=False).encode()


# ------------------------------------------------------------------------------ deadlines


def test_the_deadline_is_one_stall_timeout_after_the_last_text() -> None:
    assert ResponseLimits(300, 4096).deadline(began=0, heard=50, pieces=1) == 350


def test_bytes_without_text_extend_the_deadline_only_so_far() -> None:
    assert ResponseLimits(300, 4096).deadline(began=0, heard=2990, pieces=0) == 300 * STALLS_BEFORE_TEXT


def test_slow_reasoning_of_a_hundred_thousand_tokens_never_times_out() -> None:
    bounds, now = ResponseLimits(300, 100_000), 0.0
    for token in range(100_000):
        assert bounds.deadline(began=0, heard=now, pieces=token) > now + 20
        now += 20  # seconds per token


def test_the_deadline_is_bounded_by_max_tokens() -> None:
    at = ResponseLimits(300, 100).deadline(began=0, heard=10**9, pieces=10**6)
    assert at == 300 * STALLS_BEFORE_TEXT + 100 * SECONDS_PER_PIECE


def test_a_response_that_stalls_fails() -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(http)
            await response.write(event("so"))
            await asyncio.Event().wait()
            return response

        async with serving(handler) as url:
            await complete(url, stall_timeout=0.2, max_retries=0)

    with pytest.raises(RequestFailed, match=r"no progress, after 1 pieces of it \(stall_timeout = 0\.2 s\)"):
        asyncio.run(ask())


def test_a_response_that_never_begins_fails() -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            return web.Response()

        async with serving(handler) as url:
            await complete(url, stall_timeout=0.2, max_retries=0)

    with pytest.raises(RequestFailed, match="no progress, before any piece of it"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "bytes_", [KEEP_ALIVE, b" ", b": data: data: data:\n\n", event(""), b'data: {"choices": []}\n\n']
)
def test_a_stream_without_text_fails(bytes_: bytes) -> None:
    async def ask() -> None:
        async with serving(lambda http: drip(http, [bytes_], 0.02)) as url:
            await complete(url, stall_timeout=0.1, max_retries=0)

    with pytest.raises(RequestFailed, match="no progress, before any piece"):
        asyncio.run(ask())


@pytest.mark.parametrize("bytes_", [KEEP_ALIVE, event(""), b'data: {"choices": []}\n\n'])
def test_after_the_first_text_only_text_is_progress(bytes_: bytes) -> None:
    sent = 0

    async def handler(http: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(http)
        await response.write(event("so"))
        while True:
            await response.write(bytes_)
            await asyncio.sleep(0.05)
            sent += 1

    async def ask() -> None:
        async with serving(handler) as url:
            await complete(url, stall_timeout=0.4, max_retries=0)

    with pytest.raises(RequestFailed, match="no progress, after 1 pieces of it"):
        asyncio.run(ask())
    assert sent < 0.4 * STALLS_BEFORE_TEXT / 0.05


class InTurn:
    """Begins and then delays question 0 until the others, with a piece every 0.1 s, have ended."""

    def __init__(self, pieces: int, goes_on: bool = True) -> None:
        self.asked: list[int] = []
        self.pieces, self.goes_on = pieces, goes_on
        self.sent = 0
        self.others_ended = asyncio.Event()

    async def __call__(self, http: web.Request) -> web.StreamResponse:
        seed = (await http.json())["seed"]
        self.asked.append(seed)
        response = web.StreamResponse()
        await response.prepare(http)
        await response.write(event("so "))
        if seed:
            for _ in range(self.pieces):
                await response.write(event("on "))
                self.sent += 1
                await asyncio.sleep(0.1)
            self.others_ended.set()
        else:
            await (self.others_ended if self.goes_on else asyncio.Event()).wait()
        await response.write(events(stop()).encode())
        return response


async def delayed(server: InTurn, **settings: Any) -> tuple[Any, Any]:
    """The results of question 0, which is delayed, and of another one."""
    async with (
        serving(server) as url,
        client(url, stall_timeout=0.5, max_retries=0, **settings) as teacher,
    ):
        first, other = (teacher.complete([], SAMPLING, seed) for seed in range(2))
        return tuple(await asyncio.gather(first, other, return_exceptions=True))  # type: ignore[return-value]


def test_a_delayed_response_of_our_server_may_wait_while_others_make_progress() -> None:
    server = InTurn(pieces=25)  # for 2.5 s, five stall timeouts
    first, other = asyncio.run(delayed(server, own_server=True))
    assert (first.response, len(other.response.split())) == ("so", 26)
    assert server.asked == [0, 1]


def test_a_response_of_our_server_fails_when_none_makes_progress() -> None:
    server = InTurn(pieces=10, goes_on=False)
    first, other = asyncio.run(delayed(server, own_server=True))
    assert isinstance(first, RequestFailed)
    assert "after 1 pieces of it" in str(first)
    assert len(other.response.split()) == 11  # it did not fail before the other ended


def test_a_delayed_response_of_another_server_fails() -> None:
    server = InTurn(pieces=25)
    first, other = asyncio.run(delayed(server))
    assert isinstance(first, RequestFailed)
    assert len(other.response.split()) == 26


def test_a_response_longer_than_the_stall_timeout_is_read_to_its_end() -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(http)
            for i in range(12):
                await response.write(event(f"{i} ") if i % 3 else KEEP_ALIVE)
                await asyncio.sleep(0.1)
            await response.write(events(stop()).encode())
            return response

        async with serving(handler) as url:
            got = await complete(url, stall_timeout=0.4, max_retries=0)
        assert got.response == "1 2 4 5 7 8 10 11"

    asyncio.run(ask())


# ------------------------------------------------------------------------------ what breaks HTTP, or a bound


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe=;;\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 500 No\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 No\r\nContent-Type: text/html; charset=base64\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_response_that_violates_http_fails_its_request(head: bytes) -> None:
    async def ask() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await complete(f"http://127.0.0.1:{port}/v1", max_retries=0)

    with pytest.raises(RequestFailed) as failed:
        asyncio.run(ask())
    assert len(str(failed.value).splitlines()) == 1


# ------------------------------------------------------------------------------ redirects


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_within_a_server_is_followed_with_the_same_post(status: int) -> None:
    seen: list[tuple[str, str, Any]] = []

    async def handler(http: web.Request) -> web.StreamResponse:
        seen.append((http.method, http.path, await http.json()))
        if http.path.startswith("/v1/new/"):
            return as_response(chat(content="so"))
        return web.Response(status=status, headers={"Location": "/v1/new/chat/completions"})

    async def ask() -> str:
        async with serving(handler) as url:
            return (await complete(url)).response

    assert asyncio.run(ask()) == "so"
    (method, path, body), (again, moved, same) = seen
    assert (method, again) == ("POST", "POST")
    assert (path, moved) == ("/v1/chat/completions", "/v1/new/chat/completions")
    assert body == same


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_server_is_refused(status: int) -> None:
    elsewhere = Script(chat(content="the stranger's answer"))

    async def ask() -> str:
        async with serving(elsewhere) as other:
            away = {"Location": f"{other}/chat/completions?a=SECRET"}
            async with serving(Script((status, "", away))) as url:
                with pytest.raises(UserError) as told:
                    await complete(url)
            assert f"HTTP {status}: moved to {other}, " in str(told.value)
            return str(told.value)

    said = asyncio.run(ask())
    assert not elsewhere.asked
    assert "SECRET" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://127.0.0.1/v1",
        "//user:pw@127.0.0.1/v1",
        "http://[",
        "",
        "/v1/chat/completions",  # in a circle
    ],
)
@pytest.mark.parametrize("status", [301, 303, 307])
def test_an_invalid_redirect_is_reported_in_one_line(location: str, status: int) -> None:
    with pytest.raises(UserError, match=f"HTTP {status}: ") as told:
        answered((status, "", {"Location": location}))
    assert len(str(told.value).splitlines()) == 1
    assert "pw" not in str(told.value)


# ------------------------------------------------------------------------------ how large an answer may be


def test_the_maximum_size_of_a_response_grows_with_max_tokens() -> None:
    assert ResponseLimits(300, 20).bytes < 2 * 2**20
    assert ResponseLimits(300, 32_768).bytes > 32_768 * 1000
    assert ResponseLimits(300, 20, candidates=22).bytes > 20 * 22 * 200


def test_a_response_too_large_for_max_tokens_fails() -> None:
    with pytest.raises(RequestFailed, match=r"a request of 64 tokens is larger than 1\.1 MiB"):
        answered(chat(content="x" * (2 * OVERHEAD_BYTES)))
    assert len(answered(chat(content="x" * (OVERHEAD_BYTES // 2))).response) == OVERHEAD_BYTES // 2


def test_an_endless_response_fails_once_it_is_too_large() -> None:
    async def ask() -> int:
        requests = 0

        async def handler(http: web.Request) -> web.StreamResponse:
            nonlocal requests
            requests += 1
            return await drip(http, [b" " * 2**22], 0)

        async with serving(handler) as url:
            with pytest.raises(RequestFailed, match=r"larger than 1\.1 MiB"):
                await complete(url)
        return requests

    assert asyncio.run(ask()) == 1


def test_a_response_with_a_long_header_is_read() -> None:
    headers = {"X-Trace": "y" * 100_000}
    assert answered((200, json.dumps(chat(content="so")), headers)).response == "so"


def test_an_endless_error_is_read_in_part_only() -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.StreamResponse:
            endless = web.StreamResponse(status=400)
            await endless.prepare(http)
            while True:
                await endless.write(b"no " * 2**16)

        async with serving(handler) as url:
            await complete(url)

    with pytest.raises(RequestFailed, match="HTTP 400: no no no"):
        asyncio.run(ask())


def test_a_compressed_bomb_fails() -> None:
    bomb = gzip.compress(b" " * (65 * 2**20), compresslevel=1)
    with pytest.raises(RequestFailed, match=r"larger than 1\.1 MiB"):
        answered((200, bomb, {"Content-Encoding": "gzip"}))


# ------------------------------------------------------------------------------ connections


def test_connections_are_reused_and_closed() -> None:
    async def ask() -> None:
        connections = []

        async def handler(http: web.Request) -> web.Response:
            connections.append(id(http.transport))
            return web.Response(text=json.dumps(chat(content="so")))

        async with serving(handler) as url:
            async with client(url) as teacher:
                for seed in range(5):
                    await teacher.complete([], SAMPLING, seed)
            assert len(set(connections)) == 1

    asyncio.run(ask())  # a connection left open would be a warning, and so an error


def test_a_cancelled_request_closes_its_connection_and_frees_its_slot() -> None:
    async def ask() -> None:
        async def hang(http: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            return web.Response()

        script = Script(hang, chat(content="so"))
        async with serving(script) as url, client(url, concurrency=1) as teacher:
            asking = asyncio.create_task(teacher.complete([], SAMPLING, 1))
            while not script.in_flight:
                await asyncio.sleep(0.01)
            asking.cancel()
            assert (await teacher.complete([], SAMPLING, 2)).response == "so"
            while script.in_flight:
                await asyncio.sleep(0.01)
            assert teacher.pool.in_flight == 0

    asyncio.run(ask())
