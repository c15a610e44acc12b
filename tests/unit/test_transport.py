from __future__ import annotations

import asyncio
import gzip
import json
import warnings

import pytest
from aiohttp import web

from pipeline.teacher.transport import EVENT_GRACE, GRACE, Bounds, RequestFailed
from tests.serving import SAMPLING, Script, answered, chat, client, complete, drip, events, serving, stop

KEEP_ALIVE = b": keep-alive\n\n"


def event(text: str) -> bytes:
    return events({"content": text}, done=False).encode()


# ------------------------------------------------------------------------------ when an answer is given up


def test_an_answer_is_given_up_a_stall_after_its_last_byte() -> None:
    assert Bounds(300, 4096).deadline(began=0, now=50, events=1) == 350


def test_bytes_without_a_piece_of_the_answer_do_not_keep_it_alive_for_ever() -> None:
    assert Bounds(300, 4096).deadline(began=0, now=2990, events=0) == 300 * GRACE


def test_a_slow_thought_of_a_hundred_thousand_tokens_is_never_given_up() -> None:
    bounds, now = Bounds(300, 100_000), 0.0
    for token in range(100_000):
        assert bounds.deadline(began=0, now=now, events=token) > now + 20
        now += 20  # seconds a token


def test_no_drip_of_pieces_holds_a_request_beyond_the_tokens_asked_for() -> None:
    at = Bounds(300, 100).deadline(began=0, now=10**9, events=10**6)
    assert at == 300 * GRACE + 100 * EVENT_GRACE


def test_an_answer_that_stops_coming_is_given_up() -> None:
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


def test_an_answer_that_never_begins_is_given_up() -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            return web.Response()

        async with serving(handler) as url:
            await complete(url, stall_timeout=0.2, max_retries=0)

    with pytest.raises(RequestFailed, match="no progress, before any piece of it"):
        asyncio.run(ask())


@pytest.mark.parametrize("bytes_", [KEEP_ALIVE, b" "])
def test_a_drip_of_nothing_is_given_up(bytes_: bytes) -> None:
    async def ask() -> None:
        async with serving(lambda http: drip(http, [bytes_], 0.02)) as url:
            await complete(url, stall_timeout=0.1, max_retries=0)

    with pytest.raises(RequestFailed, match="no progress, before any piece"):
        asyncio.run(ask())


def test_an_answer_that_takes_longer_than_a_stall_is_read_to_its_end() -> None:
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
        b"HTTP/1.1 307 No\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 307 No\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 307 No\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 No\r\nContent-Type: text/html; charset=base64\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_http_fails_its_request(head: bytes) -> None:
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


def test_an_endless_answer_is_refused_once_it_is_too_large() -> None:
    async def ask() -> int:
        requests = 0

        async def handler(http: web.Request) -> web.StreamResponse:
            nonlocal requests
            requests += 1
            return await drip(http, [b" " * 2**22], 0)

        async with serving(handler) as url:
            with pytest.raises(RequestFailed, match="larger than 64 MiB"):
                await complete(url)
        return requests

    assert asyncio.run(ask()) == 1


def test_an_answer_with_a_long_header_is_read() -> None:
    headers = {"X-Trace": "y" * 100_000}
    assert answered((200, json.dumps(chat(content="so")), headers)).response == "so"


def test_an_endless_error_is_read_in_part() -> None:
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


def test_a_compressed_bomb_is_refused() -> None:
    bomb = gzip.compress(b" " * (65 * 2**20), compresslevel=1)
    with pytest.raises(RequestFailed, match="larger than 64 MiB"):
        answered((200, bomb, {"Content-Encoding": "gzip"}))


# ------------------------------------------------------------------------------ connections


def test_connections_are_used_again_and_none_is_left_behind() -> None:
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

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(ask())


def test_a_cancelled_request_closes_its_connection_and_frees_its_place() -> None:
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
            assert teacher.tally.in_flight == 0

    asyncio.run(ask())
