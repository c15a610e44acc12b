from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from pipeline.errors import UserError
from pipeline.inference.credentials import MAX_MESSAGE, Redactor, check_base_url, proxy_for
from pipeline.inference.http_errors import RequestFailed
from tests.serving import answered, client, complete, serving

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer

KEY = "sk-abcdef-THE-SECRET-uvwxyz"


def check(*urls: str, **settings: Any) -> list[str]:
    """The messages of the check of these addresses."""
    said: list[str] = []

    async def ask() -> None:
        async with client(*urls, **settings) as teacher:
            await teacher.check(said.append)

    asyncio.run(ask())
    return said


# ------------------------------------------------------------------------------ the address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://api.example.com/v1?api-version=2", "https://api.example.com/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_shown_without_its_query(url: str, shown: str) -> None:
    assert check_base_url(url) == shown


@pytest.mark.parametrize("query", ["token=abc", "x=1&api_key=abc", "Signature=abc"])
def test_a_key_in_an_address_is_refused(query: str) -> None:
    with pytest.raises(UserError, match="api_key_env") as told:
        check_base_url(f"https://api.example.com/v1?{query}")
    assert "abc" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["", "api.example.com/v1", "ftp://x/v1", "http://", "http://[/v1", "http://x:y/", "http://x:0/"]
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="base_url"):
        client(url)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match="api_key_env") as refused:
        client("http://user:hunter2@127.0.0.1:9/v1?token=abc")
    assert not any(secret in str(refused.value) for secret in ("hunter2", "abc"))


def test_the_proxy_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "inside.example.com")
    assert proxy_for("https://api.example.com/v1") == "http://proxy.example.com:3128"
    for url in ("http://127.0.0.1:8000/v1", "http://localhost/v1", "http://inside.example.com/v1"):
        assert proxy_for(url) is None


# ------------------------------------------------------------------------------ the list of models


def test_check_passes_for_a_model_that_the_server_lists(fake_server: StartFakeServer) -> None:
    server = fake_server("--model", "a", "--model", "models/b")
    assert check(server.url, model="a") == []
    assert check(server.url, model="b") == []


def test_an_unlisted_model_gives_a_warning_and_then_an_error(
    fake_server: StartFakeServer,
) -> None:
    server = fake_server("--model", "smollm2")
    (said,) = check(server.url, model="smollm")
    assert said.startswith(
        f"{server.url}: it lists 'smollm2'; its first response will tell whether it has 'smollm'"
    )
    with pytest.raises(UserError, match="HTTP 404: The model `smollm` does not exist"):
        asyncio.run(complete(server.url, model="smollm"))
    assert server.stats()["requests"] == 1


def test_a_server_that_cannot_be_reached_is_named(fake_server: StartFakeServer) -> None:
    server = fake_server()
    server.stop()
    with pytest.raises(UserError, match=rf"^{server.url}: cannot use model 'fake' .*: no response: "):
        check(server.url, max_retries=0)


def test_one_usable_endpoint_of_several_is_enough_and_the_others_are_reported(
    fake_server: StartFakeServer,
) -> None:
    good, other, gone = fake_server(), fake_server("--model", "other"), fake_server()
    gone.stop()
    said = check(gone.url, good.url, other.url, max_retries=0)
    assert len(said) == 2
    assert f"{other.url}: it lists 'other'" in said[0]
    assert said[1].startswith(f"{gone.url} is in cooldown: no response")
    with pytest.raises(UserError, match=gone.url):
        check(gone.url, max_retries=0)


def check_list(models: Any, status: int = 200) -> list[str]:
    """The messages of the check of a server with this list of models."""
    said: list[str] = []

    async def ask() -> None:
        async def handler(http: web.Request) -> web.Response:
            return web.Response(text=models if isinstance(models, str) else json.dumps(models), status=status)

        async with serving(handler) as url, client(url, max_retries=0) as teacher:
            await teacher.check(said.append)

    asyncio.run(ask())
    return said


@pytest.mark.parametrize(
    "models", [{"data": 5}, {"data": [{"id": None}]}, "<html>", "[]", '{"data": [' + " " * 2**25]
)
def test_an_invalid_list_of_models_is_ignored(models: Any) -> None:
    (said,) = check_list(models)
    assert "its list of models" in said


@pytest.mark.parametrize("names", [["fake:latest"], ["org/fake-2"], []])
def test_a_list_without_our_model_gives_a_warning(names: list[str]) -> None:
    (said,) = check_list({"data": [{"id": name} for name in names]})
    assert "its first response will tell whether it has 'fake'" in said


def test_a_refused_list_stops_only_if_requests_would_be_refused_too() -> None:
    (said,) = check_list({"error": {"message": "no listing for this key"}}, 403)
    assert "HTTP 403: no listing for this key" in said
    assert check_list("", 404) == []
    for status in (401, 503):
        with pytest.raises(UserError, match=f"HTTP {status}: no"):
            check_list({"error": {"message": "no"}}, status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_the_list_is_followed_only_on_the_same_host(status: int) -> None:
    asked: list[str] = []
    said: list[str] = []

    async def ask() -> None:
        async def other(http: web.Request) -> web.Response:
            asked.append("other")
            return web.json_response({"data": []})

        async def handler(http: web.Request) -> web.Response:
            asked.append(f"{http.method} {http.path}")
            if http.path.endswith("/new/models"):
                return web.json_response({"data": [{"id": "fake"}]})
            target = "/v1/new/models" if len(asked) == 1 else f"{elsewhere}/models?key=SECRET"
            return web.Response(status=status, headers={"Location": target})

        async with serving(other) as elsewhere, serving(handler) as url, client(url) as teacher:
            await teacher.check(said.append)
            assert said == []
            await teacher.check(said.append)

    asyncio.run(ask())
    assert asked == ["GET /v1/models", "GET /v1/new/models", "GET /v1/models"]
    assert f"HTTP {status}: moved to http://127.0.0.1:" in said[0]
    assert "SECRET" not in said[0]


def test_a_request_for_the_list_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.retry.MAX_BACKOFF", 0.01)
    asked = 0

    async def ask() -> None:
        async def handler(http: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            if asked < 3:
                return web.Response(status=429, headers={"Retry-After": "0"})
            return web.json_response({"data": [{"id": "fake"}]})

        async with serving(handler) as url, client(url) as teacher:
            await teacher.check()

    asyncio.run(ask())
    assert asked == 3


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
    assert check(server.url, api_key_env="TEST_KEY") == []
    assert asyncio.run(complete(server.url, api_key_env="TEST_KEY")).reasoning


@pytest.mark.parametrize("key", [KEY, "0123456789abcdef0123456789abcdef", "short"])
@pytest.mark.parametrize(
    "echo",
    ["bad key {key}.", "'{key}'", "got {start}...{end}", "{start}****{end}", "Authorization: Bearer {key}"],
)
@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_repeated_by_the_server_is_never_shown(
    key: str, echo: str, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    caplog.set_level(logging.DEBUG)
    said = echo.format(key=key, start=key[:7], end=key[-5:])
    with pytest.raises((UserError, RequestFailed)) as failed:
        answered((status, {"error": {"message": said}}), api_key_env="TEST_KEY")
    assert not any(part in str(failed.value) for part in (key, key[:5], key[-5:]))
    assert key not in caplog.text
    teacher = client("http://x", api_key_env="TEST_KEY")
    assert key not in f"{teacher!r} {vars(teacher)!r}"


@pytest.mark.parametrize("key", [None, "", "  ", "two words", "line\nbreak", "schl\u00fcssel"])
def test_a_missing_or_empty_key_is_refused_before_any_request(
    key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(UserError, match="TEST_KEY") as refused:
        client("http://127.0.0.1:9/v1", api_key_env="TEST_KEY")
    assert not (key and key.strip() and key in str(refused.value))


def test_a_servers_message_becomes_one_printable_line_of_bounded_length() -> None:
    clean = Redactor().clean
    assert clean("the prompt\x00\x1b\n is\u202e too long") == "the prompt is too long"
    assert len(clean("x" * 10**6)) == MAX_MESSAGE
