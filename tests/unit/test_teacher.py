from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from pipeline.config import Endpoint
from pipeline.errors import UserError
from pipeline.rows import Message, Sampling
from pipeline.teacher import MAX_WORDS, Client, Completion, RequestFailed, split_thought

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=64)
KEY = "sk-abcdef-THE-SECRET-uvwxyz"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def client(url: str, model: str = "fake", **settings: Any) -> Client:
    return Client(Endpoint(model=model, base_url=url, **settings), url, model)


async def complete(
    url: str, question: str = "What is 12 + 30?", seed: int = 1, **settings: Any
) -> Completion:
    async with client(url, **settings) as teacher:
        return await teacher.complete([Message(role="user", content=question)], SAMPLING, seed)


def check(url: str, model: str = "fake", **settings: Any) -> None:
    async def ask() -> None:
        async with client(url, model, **settings) as teacher:
            await teacher.check()

    asyncio.run(ask())


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server that does with every request what the test says; gives its base URL."""
    app = web.Application()
    app.router.add_route("*", "/v1/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def answered(
    body: Any, status: int = 200, headers: dict[str, str] | None = None, **settings: Any
) -> Completion:
    """What the client makes of one answer; a body that is not bytes or text is sent as JSON."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()

    async def ask() -> Completion:
        async def handler(http: web.Request) -> web.Response:
            return web.Response(body=data, status=status, headers=headers, content_type="application/json")

        async with serving(handler) as url:
            return await complete(url, **{"max_retries": 0, **settings})

    return asyncio.run(ask())


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": None}


# ------------------------------------------------------------------------------ the thought


@pytest.mark.parametrize(
    ("content", "reasoning", "expected"),
    [
        ("<think>why</think>so", None, ("why", "so")),
        ("\n <think>\nwhy\n</think>\n\nso\n", None, ("why", "so")),
        ("why\n</think>\n\nso", None, ("why", "so")),
        ("so", "why", ("why", "so")),
        ("\n\nso", "\nwhy\n", ("why", "so")),
        ("<think>why", None, ("why", "")),
        (None, "why", ("why", "")),
        ("so", None, (None, "so")),
        ("so", " ", (None, "so")),
        ("<think>\n\n</think>\n\nso", None, (None, "so")),
        ("</think>so", None, (None, "so")),
        (None, None, (None, "")),
    ],
)
def test_the_thought_is_split_off_where_it_is_plain(
    content: str | None, reasoning: str | None, expected: tuple[str | None, str]
) -> None:
    assert split_thought(content, reasoning) == expected


@pytest.mark.parametrize(
    "content",
    [
        "<think>a</think>b</think>c",
        "<think>a<think>b</think>c",
        "first <think>a</think>b",
        "a</think>b</think>c",
        "so it is <think>",
        "a</think>b<think>c",
    ],
)
def test_ambiguous_tags_stay_whole_in_the_response(content: str) -> None:
    assert split_thought(content, None) == (None, content)


def test_tags_beside_a_thought_of_its_own_stay_in_the_response() -> None:
    assert split_thought("<think>a</think>b", "why") == ("why", "<think>a</think>b")


@pytest.mark.parametrize("kind", ["right", "malformed", "truncated"])
def test_every_way_of_sending_the_thought_gives_the_same_completion(
    fake_server: StartFakeServer, kind: str
) -> None:
    shares = [f"--{name}={float(name == kind)}" for name in ("right", "malformed", "truncated")]
    ways = ["inline", "reasoning_content", "reasoning"] + (["opened"] if kind == "right" else [])
    urls = [fake_server("--thoughts", way, *shares).url for way in ways]
    first, *others = [asyncio.run(complete(url)) for url in urls]
    assert first.reasoning
    assert first.response == ("The answer is 42." if kind == "right" else "")
    assert first.finish_reason == ("length" if kind == "truncated" else "stop")
    assert first.prompt_tokens
    assert first.completion_tokens
    assert others == [first] * len(others)


# ------------------------------------------------------------------------------ odd but good answers


def test_null_usage_gives_no_token_counts() -> None:
    assert answered(chat(content="so")) == Completion(None, "so", "stop", None, None)


def test_the_first_of_several_choices_is_taken() -> None:
    body = {"choices": [chat(content="a")["choices"][0], chat(content="b")["choices"][0]]}
    assert answered(body).response == "a"


def test_tool_calls_without_content_are_an_empty_response() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert answered(body) == Completion(None, "", "tool_calls", None, None)


def test_a_missing_finish_reason_is_called_unknown() -> None:
    assert answered({"choices": [{"message": {"content": "so"}}]}).finish_reason == "unknown"


def test_a_compressed_answer_is_read() -> None:
    body = gzip.compress(json.dumps(chat(content="so")).encode())
    assert answered(body, headers={"Content-Encoding": "gzip"}).response == "so"


def test_the_request_carries_what_the_recipe_says() -> None:
    async def ask() -> dict[str, Any]:
        seen: dict[str, Any] = {}

        async def handler(http: web.Request) -> web.Response:
            seen.update(await http.json())
            return web.json_response(chat(content="so"))

        async with serving(handler) as url:
            await complete(url, "Why?", seed=2**31 + 5)
        return seen

    assert asyncio.run(ask()) == {
        "model": "fake",
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 5,
    }


# ------------------------------------------------------------------------------ hostile answers

SURROGATE = b'{"choices": [{"message": {"content": "\\ud800"}}]}'


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        "7",
        {},
        {"choices": 5},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": []}]},
        {"choices": [{"message": "so"}]},
        {"choices": [{"message": {"content": "so"}, "finish_reason": 7}]},
        {"choices": [{"message": {"content": "so"}, "finish_reason": "x" * 1000}]},
        {"choices": [{"message": {"content": "so"}}], "usage": "x"},
        {"choices": [{"message": {"content": "so"}}], "usage": {"prompt_tokens": -1}},
        {"choices": [{"message": {"content": "so"}}], "usage": {"prompt_tokens": 10**30}},
        {"choices": [{"message": {"content": "so"}}], "usage": {"prompt_tokens": True}},
        chat(content=7),
        chat(content=[{"type": "text", "text": "so"}]),
        chat(content="so", reasoning_content={"text": "why"}),
        chat(content="so", reasoning=["why"]),
        {"error": {"message": "upstream is down", "code": 502}},
        "[" * 100_000 + "]" * 100_000,
        '{"choices": ' + "[" * 100_000,
        SURROGATE,
        b"\xff\xfe",
    ],
)
def test_an_answer_of_the_wrong_form_fails_its_request_in_one_line(body: Any) -> None:
    with pytest.raises(RequestFailed) as failed:
        answered(body)
    assert len(str(failed.value).splitlines()) == 1
    assert len(str(failed.value)) < MAX_WORDS + 100


@pytest.mark.parametrize("status", [400, 413, 418, 422])
def test_a_refusal_of_this_request_is_its_own_failure_with_the_servers_words(status: int) -> None:
    with pytest.raises(RequestFailed, match=f"HTTP {status}: the prompt is too long"):
        answered({"error": {"message": "the prompt\x00\x1b\n is\u202e too long"}}, status)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no"}}, "no"),
        ({"object": "error", "message": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": [{"loc": ["n"]}]}, '{"detail": [{"loc": ["n"]}]}'),
        ("<h1>no</h1>", "<h1>no</h1>"),
        ("", "no reason given"),
        ("[" * 100_000, "[" * (MAX_WORDS - 3) + "..."),
    ],
)
def test_the_servers_words_are_found_whatever_form_they_have(body: Any, said: str) -> None:
    with pytest.raises(RequestFailed) as failed:
        answered(body, 400)
    assert str(failed.value) == f"HTTP 400: {said}"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe=;;\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 307 No\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 307 No\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 No\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n",
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

    with pytest.raises(RequestFailed):
        asyncio.run(ask())


def test_an_endless_answer_is_refused_once_it_is_too_large() -> None:
    async def ask() -> int:
        requests = 0

        async def handler(http: web.Request) -> web.StreamResponse:
            nonlocal requests
            requests += 1
            endless = web.StreamResponse()
            await endless.prepare(http)
            while True:
                await endless.write(b" " * 2**22)

        async with serving(handler) as url:
            with pytest.raises(RequestFailed, match="larger than 64 MiB"):
                await complete(url)
        return requests

    assert asyncio.run(ask()) == 1


def test_a_compressed_bomb_is_refused() -> None:
    bomb = gzip.compress(b" " * (65 * 2**20), compresslevel=1)
    with pytest.raises(RequestFailed, match="larger than 64 MiB"):
        answered(bomb, headers={"Content-Encoding": "gzip"})


def test_an_answer_that_drips_is_given_up_at_its_time_limit() -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.StreamResponse:
            slow = web.StreamResponse()
            await slow.prepare(http)
            while True:
                await slow.write(b" ")
                await asyncio.sleep(0.05)

        async with serving(handler) as url:
            await complete(url, request_timeout=0.3, max_retries=0)

    with pytest.raises(RequestFailed, match=r"not finished after 0\.3 s"):
        asyncio.run(ask())


# ------------------------------------------------------------------------------ faults and tries


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "garbage"])
def test_what_may_pass_on_a_second_try_is_tried_again(fake_server: StartFakeServer, fault: str) -> None:
    server = fake_server("--faulty-tries=1", "--retry-after=0.01", faults={fault: 1})
    assert asyncio.run(complete(server.url)).reasoning
    assert server.stats()["outcomes"] == {fault: 1, "200": 1}


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "garbage"])
def test_it_gives_up_after_the_tries_the_recipe_allows(fake_server: StartFakeServer, fault: str) -> None:
    server = fake_server("--retry-after=0.01", faults={fault: 1})
    with pytest.raises(RequestFailed):
        asyncio.run(complete(server.url, max_retries=1))
    assert server.stats()["requests"] == 2


def test_all_kinds_of_faults_share_one_budget_of_tries() -> None:
    async def ask() -> int:
        requests = 0

        async def handler(http: web.Request) -> web.Response:
            nonlocal requests
            requests += 1
            headers = {"Retry-After": "0.01"}
            return web.Response(status=429, headers=headers) if requests % 2 else web.Response(text="<html>")

        async with serving(handler) as url:
            with pytest.raises(RequestFailed):
                await complete(url, max_retries=2)
        return requests

    assert asyncio.run(ask()) == 3


def test_a_hung_request_is_tried_again_after_its_time_limit(fake_server: StartFakeServer) -> None:
    server = fake_server("--faulty-tries=1", faults={"hang": 1})
    assert asyncio.run(complete(server.url, request_timeout=1)).reasoning
    assert server.stats()["outcomes"]["hang"] == 1


def test_retry_after_is_honoured_up_to_two_minutes(fake_server: StartFakeServer) -> None:
    hasty = fake_server("--retry-after=0.01", "--faulty-tries=5", faults={"429": 1})
    asyncio.run(complete(hasty.url, max_retries=5))  # the client's own waits would come to 15 s
    assert hasty.stats()["requests"] == 6

    absurd = fake_server("--retry-after=3600", faults={"429": 1})
    with pytest.raises(RequestFailed, match="HTTP 429"):
        asyncio.run(complete(absurd.url))
    assert absurd.stats()["requests"] == 1


def test_a_long_retry_after_is_waited_out(fake_server: StartFakeServer) -> None:
    server = fake_server("--retry-after=60", faults={"429": 1})

    async def ask() -> None:
        asking = asyncio.create_task(complete(server.url))
        while server.stats()["requests"] == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.7)  # longer than the client's own first wait
        assert server.stats()["requests"] == 1
        assert not asking.done()
        asking.cancel()

    asyncio.run(ask())


def test_a_prompt_longer_than_the_context_fails_alone(fake_server: StartFakeServer) -> None:
    server = fake_server("--too-long", "[long]")
    with pytest.raises(RequestFailed, match="HTTP 400: This model's maximum context length"):
        asyncio.run(complete(server.url, "[long]"))
    assert server.stats()["requests"] == 1


def test_a_server_that_is_gone_fails_the_request(fake_server: StartFakeServer) -> None:
    server = fake_server()
    server.stop()
    with pytest.raises(RequestFailed, match="no answer: "):
        asyncio.run(complete(server.url, max_retries=0))


def test_the_client_itself_bounds_no_requests_in_flight(fake_server: StartFakeServer) -> None:
    server = fake_server(faults={"hang": 1})

    async def ask() -> None:
        async with client(server.url) as teacher:
            message = [Message(role="user", content="1 + 1")]
            asking = [asyncio.create_task(teacher.complete(message, SAMPLING, seed)) for seed in range(300)]
            async with asyncio.timeout(30):
                while server.stats()["most_in_flight"] < len(asking):
                    await asyncio.sleep(0.05)
            for task in asking:
                task.cancel()

    asyncio.run(ask())


# ------------------------------------------------------------------------------ what stops the run


def test_check_passes_for_a_model_the_server_knows(fake_server: StartFakeServer) -> None:
    server = fake_server("--model", "a", "--model", "models/b")
    check(server.url, "a")
    check(server.url, "b")


def test_an_unknown_model_stops_the_run_at_once_and_names_the_nearest(fake_server: StartFakeServer) -> None:
    server = fake_server("--model", "smollm2")
    with pytest.raises(UserError, match=r"http.*/v1: cannot use model 'smollm' .*: it serves 'smollm2'"):
        check(server.url, "smollm")
    with pytest.raises(UserError, match="HTTP 404: The model `smollm` does not exist"):
        asyncio.run(complete(server.url, model="smollm"))
    assert server.stats()["requests"] == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"error": {"message": "Insufficient Balance"}}),
        (403, {"error": {"message": "not for you"}}),
        (400, {"error": {"message": "Model Not Exist"}}),
        (400, {"error": {"message": "Invalid model: fake"}}),
        (400, {"error": {"message": "no", "code": "model_not_found"}}),
        (429, {"error": {"message": "no", "code": "insufficient_quota"}}),
    ],
)
def test_what_would_refuse_every_request_stops_the_run(status: int, body: Any) -> None:
    with pytest.raises(UserError, match=f"HTTP {status}"):
        answered(body, status)


def test_a_server_that_cannot_be_reached_is_named(fake_server: StartFakeServer) -> None:
    server = fake_server()
    server.stop()
    with pytest.raises(UserError, match=rf"^{server.url}: cannot use model 'fake' .*: no answer: "):
        check(server.url, max_retries=0)


@pytest.mark.parametrize("models", [{"data": 5}, {"data": [{"id": None}]}, "<html>", "[]"])
def test_a_list_of_models_that_is_none_is_the_servers_mistake(models: Any) -> None:
    async def ask() -> None:
        async def handler(http: web.Request) -> web.Response:
            return web.Response(text=models if isinstance(models, str) else json.dumps(models))

        async with serving(handler) as url, client(url, max_retries=0) as teacher:
            await teacher.check()

    with pytest.raises(UserError):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "url", ["", "api.example.com/v1", "ftp://x/v1", "http://", "http://[/v1", "http://x:y/"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="base_url"):
        client(url)


# ------------------------------------------------------------------------------ the key


def test_a_wrong_key_stops_the_run_with_one_request_and_is_not_shown(
    fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fake_server("--key-env", "RIGHT_KEY", env={"RIGHT_KEY": "right"})
    monkeypatch.setenv("TEST_KEY", KEY)
    with pytest.raises(UserError, match=r"environment variable TEST_KEY.*HTTP 401") as refused:
        asyncio.run(complete(server.url, api_key_env="TEST_KEY"))
    assert server.stats()["requests"] == 1
    with pytest.raises(UserError, match="HTTP 401") as unchecked:
        check(server.url, api_key_env="TEST_KEY")
    for shown in (str(refused.value), str(unchecked.value)):
        assert not any(part in shown for part in (KEY, KEY[:5], KEY[-4:]))


def test_the_right_key_is_sent(fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake_server("--key-env", "RIGHT_KEY", env={"RIGHT_KEY": KEY})
    monkeypatch.setenv("TEST_KEY", KEY + "\n")
    check(server.url, api_key_env="TEST_KEY")
    assert asyncio.run(complete(server.url, api_key_env="TEST_KEY")).reasoning


@pytest.mark.parametrize("key", [KEY, "0123456789abcdef0123456789abcdef", "short"])
@pytest.mark.parametrize(
    "echo",
    ["bad key {key}.", "'{key}'", "got {start}...{end}", "{start}****{end}", "Authorization: Bearer {key}"],
)
@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_the_server_repeats_is_never_shown(
    key: str, echo: str, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    caplog.set_level(logging.DEBUG)
    said = echo.format(key=key, start=key[:7], end=key[-5:])
    with pytest.raises((UserError, RequestFailed)) as failed:
        answered({"error": {"message": said}}, status, api_key_env="TEST_KEY")
    assert not any(part in str(failed.value) for part in (key, key[:5], key[-5:]))
    assert key not in caplog.text
    assert key not in repr(client("http://x", api_key_env="TEST_KEY"))


@pytest.mark.parametrize("key", [None, "", "  ", "two words", "line\nbreak", "schl\u00fcssel"])
def test_a_key_that_is_missing_or_none_is_refused_before_any_request(
    key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(UserError, match="TEST_KEY") as refused:
        client("http://127.0.0.1:9/v1", api_key_env="TEST_KEY")
    assert not (key and key.strip() and key in str(refused.value))


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(UserError) as refused:
        check("http://user:pass@127.0.0.1:9/v1?token=abc", max_retries=0)
    assert not any(secret in str(refused.value) for secret in ("pass", "abc"))
