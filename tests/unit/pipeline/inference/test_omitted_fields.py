"""Fields that a server does not support: omitted by the recipe, or after a refusal that names them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.inference import fingerprint, vllm_server
from pipeline.inference.chat_request import SET_HERE, chat_body
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.response import Completion
from pipeline.rows import Message
from tests.serving import SAMPLING, Script, as_response, chat, client, serving

SPARE = {"temperature", "top_p", "seed", "stream_options"}
ANTHROPIC = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
OPENAI = "Unsupported value: 'temperature' does not support 0.7. Only the default (1) value is supported."
GO = 'json: unknown field "stream_options"'


def extra(name: str) -> dict[str, Any]:
    """FastAPI's error for an unknown field."""
    said = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
    return {"object": "error", "message": {"detail": [said]}}


def refusing(*rules: tuple[set[str], int, Any]) -> Script:
    """A server that refuses requests with all of these fields, with this status and body."""

    async def answer(http: web.Request) -> web.Response:
        fields = set(await http.json())
        for names, status, body in rules:
            if names <= fields:
                return as_response((status, body))
        return as_response(chat(content="so"))

    return Script(answer)


def ask(script: Script, times: int = 1, **settings: Any) -> tuple[list[Completion], list[str]]:
    """The completions in turn, and the messages of the client."""
    said: list[str] = []

    async def run() -> list[Completion]:
        async with serving(script) as url, client(url, **{"max_retries": 0, **settings}) as teacher:
            await teacher.check(said.append)
            return [
                await teacher.complete([Message(role="user", content="q")], SAMPLING, seed)
                for seed in range(times)
            ]

    return asyncio.run(run()), said


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


@pytest.mark.parametrize(
    ("rules", "unsent"),
    [
        ([({"temperature", "top_p"}, 400, error(ANTHROPIC))], {"top_p"}),
        ([({"temperature"}, 400, error(OPENAI))], {"temperature"}),
        ([({"stream_options"}, 400, error(GO))], {"stream_options"}),
        ([({"seed"}, 422, extra("seed"))], {"seed"}),
        (
            [({name}, 422, extra(name)) for name in ("seed", "stream_options", "top_p")],
            {"seed", "stream_options", "top_p"},
        ),
    ],
)
def test_a_field_named_by_a_refusal_is_omitted_from_then_on_and_reported_once(
    rules: list[tuple[set[str], int, Any]], unsent: set[str]
) -> None:
    script = refusing(*rules)
    completions, said = ask(script, times=3)
    assert [c.unsent for c in completions] == [unsent] * 3
    assert len(script.asked) == 3 + len(unsent)
    for asked in script.asked[-3:]:
        assert set(asked) & SPARE == SPARE - unsent
    (line,) = said
    assert f"{', '.join(sorted(unsent))} left out of requests from here on" in line


def test_the_recipe_omits_fields_before_any_request() -> None:
    script = refusing(({"seed"}, 422, extra("seed")))
    (completion,), said = ask(script, omit=("seed", "top_p"))
    assert completion.unsent == {"seed", "top_p"}
    assert set(script.asked[0]) & SPARE == {"temperature", "stream_options"}
    assert len(script.asked) == 1
    assert said == []


@pytest.mark.parametrize(
    "message",
    [
        "temperature must be between 0 and 1",
        "Input should be less than or equal to 1: temperature",
        "the prompt is too long",
        "max_tokens is not supported",
        "a random seedling is not allowed",
    ],
)
def test_a_refusal_for_another_reason_keeps_all_fields(message: str) -> None:
    script = Script((400, error(message)))
    with pytest.raises(RequestFailed):
        ask(script)
    assert len(script.asked) == 1


def test_a_refused_prompt_with_all_fields_echoed_keeps_all_fields() -> None:
    echo = error("invalid request: {temperature: 0.7, top_p: 0.9, seed: 1, stream_options: ...}")
    script = Script(chat(content="so"), *[(400, echo)] * 5, chat(content="so"))
    said: list[str] = []

    async def run() -> Completion:
        question = [Message(role="user", content="q")]
        async with serving(script) as url, client(url, max_retries=0) as teacher:
            await teacher.check(said.append)
            await teacher.complete(question, SAMPLING, 1)
            with pytest.raises(RequestFailed, match="invalid request"):
                await teacher.complete(question, SAMPLING, 2)
            return await teacher.complete(question, SAMPLING, 3)

    assert asyncio.run(run()).unsent == frozenset()
    assert set(script.asked[-1]) >= SPARE
    assert said == []


def test_omitted_fields_are_part_of_the_settings() -> None:
    plain = Endpoint(model="m", base_url="http://x/v1")
    omitting = Endpoint(model="m", base_url="http://x/v1", omit=("stream_options", "seed"))
    assert "omit" not in fingerprint.model_settings("m", plain)
    assert fingerprint.model_settings("m", omitting)["omit"] == ["seed"]


def test_a_field_that_the_recipe_s_own_settings_decide_is_refused_among_the_further_ones() -> None:
    given = Endpoint(model="m", base_url="http://localhost:1/v1", extra_body={"top_k": 20})
    vllm_server.check(given)
    body = chat_body(given, "m", [], SAMPLING, 1, False, None)
    assert body.keys() - {"top_k"} <= SET_HERE
    for name in SET_HERE:
        with pytest.raises(UserError, match=f"extra_body.{name}: retort sets this field"):
            vllm_server.check(given.model_copy(update={"extra_body": {name: 1}}))
