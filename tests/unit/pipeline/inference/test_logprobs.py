from __future__ import annotations

import asyncio
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import UserError
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.response import Completion
from pipeline.rows import Logprobs
from tests.serving import SAMPLING, Script, answered, client, complete, events, serving, stop, usage

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer

TEXT = ["<think>", "\n", "why", "</", "think", ">", "\n\n", "so \u00e9", ""]


def token(text: str | None, logprob: float = -0.5) -> Any:
    raw = None if text is None else list(text.encode())
    return {"token": text or "", "logprob": logprob, "bytes": raw, "top_logprobs": []}


def chat(tokens: list[Any], finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    message = message or {"content": "".join(TEXT)}
    return {
        "choices": [{"message": message, "logprobs": {"content": tokens}, "finish_reason": finish_reason}]
    }


def row(*answers: Any, **settings: Any) -> Logprobs:
    got = answered(*answers, logprobs=True, **settings).logprobs
    assert got
    return got


def test_the_log_probabilities_of_sampled_tokens_are_stored() -> None:
    tokens = [token("<think>why</think>so", -2.123456789), token(".", -math.inf)]
    got = row(chat(tokens, content="<think>why</think>so."))
    assert got == Logprobs(reasoning_tokens=1, logprobs=(-2.12346, -9999))


@pytest.mark.parametrize("way", ["one body", "a stream"])
def test_the_end_of_the_reasoning_is_found_in_the_tokens(way: str) -> None:
    tokens = [token(text) for text in TEXT]
    if way == "one body":
        body: Any = chat(tokens)
    else:
        pieces = [{"choices": [{"delta": {"content": t}, "logprobs": {"content": [lp]}}]}
                  for t, lp in zip(TEXT, tokens, strict=True)]  # fmt: skip
        body = events(*pieces, stop())
    got = row(body)
    assert (got.reasoning_tokens, len(got.logprobs)) == (6, len(TEXT))


@pytest.mark.parametrize(
    ("message", "texts", "reasoning_tokens"),
    [
        ({"reasoning": "why", "content": "so"}, ["why", "</think>", "so"], 2),
        ({"reasoning": "why", "content": "so"}, ["why", "", "\n", "so", ""], 3),
        ({"reasoning": "why", "content": "so"}, ["why", "[/THINK]", "s", "o"], 2),
        ({"reasoning": "why", "content": ""}, ["w", "hy"], 2),
        ({"content": "so it is"}, ["so", " it is"], 0),
        ({"content": "a</think>b</think>c"}, ["a</think>", "b</think>c"], 0),
    ],
)
def test_reasoning_tokens_are_found_if_the_server_hides_the_tags(
    message: dict[str, str], texts: list[str], reasoning_tokens: int
) -> None:
    assert row(chat([token(text) for text in texts], **message)).reasoning_tokens == reasoning_tokens


def test_truncated_reasoning_has_all_of_the_tokens() -> None:
    assert row(chat([token("<think>"), token("why")], "length", content="<think>why")).reasoning_tokens == 2


def test_a_token_without_bytes_counts_with_its_text() -> None:
    words = [{"token": text, "logprob": -1, "bytes": None} for text in ("why", "</think>", "so")]
    got = row(chat(words, content="why</think>so"))
    assert got == Logprobs(reasoning_tokens=2, logprobs=(-1, -1, -1))


def test_log_probabilities_of_a_continuation_are_appended() -> None:
    before = Logprobs(reasoning_tokens=2, logprobs=(-1, -2))
    truncated = Completion("why ", "", "length", 5, 2, before, thinking=True)
    tokens = [token("not</think>", -0.3), token("so", -0.4)]
    got = row(chat(tokens, content="not</think>so"), before=truncated)
    assert got == Logprobs(reasoning_tokens=3, logprobs=(-1, -2, -0.3, -0.4))
    open_still = row(chat([token("not", -0.3)], "length", content="not"), before=truncated)
    assert open_still.reasoning_tokens == 3


def test_an_empty_response_has_no_log_probabilities() -> None:
    assert row(chat([], content=None)).logprobs == ()


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ({"choices": [{"message": {"content": "so"}}]}, "sends no log-probabilities"),
        (chat([token(None), token(None)], reasoning="why", content="so"), "lack the tokens' bytes"),
    ],
)
def test_a_server_without_log_probabilities_is_reported(body: Any, missing: str) -> None:
    with pytest.raises(UserError, match=f"^http.*/v1: model 'fake': .*{missing}.*; vLLM gives them$"):
        row(body)
    good = chat([token("so", -0.1)], content="so")

    async def ask() -> None:
        async with serving(Script(good, body)) as url, client(url, max_retries=0) as teacher:
            await teacher.complete([], SAMPLING, 1, logprobs=True)
            with pytest.raises(RequestFailed, match=re.escape(missing)):
                await teacher.complete([], SAMPLING, 1, logprobs=True)

    asyncio.run(ask())


@pytest.mark.parametrize(
    "part",
    [
        {"content": 7},
        {"content": [7]},
        {"content": [{}]},
        {"content": [{"token": 7, "logprob": -1}]},
        {"content": [{"token": "a", "logprob": "b"}]},
        {"content": [{"token": "a", "logprob": None}]},
        {"content": [{"token": "a", "logprob": -1, "bytes": [300]}]},
        {"content": [{"token": "a", "logprob": -1, "bytes": 10**12}]},
        '{"content": [{"token": "a", "logprob": NaN}]}',
        '{"content": [{"token": "a", "logprob": 1e999}]}',
        [1, 2],
        "so",
    ],
)
def test_log_probabilities_of_the_wrong_form_fail_the_request(part: Any) -> None:
    whole = {"choices": [{"message": {"content": "so"}, "logprobs": "PART"}]}
    sent = part if isinstance(part, str) and "logprob" in part else json.dumps(part)
    with pytest.raises(RequestFailed, match="wrong form"):
        answered(events(whole, stop(), usage(1, 1)).replace('"PART"', sent), logprobs=True)


def test_the_fake_server_sends_log_probabilities_like_vllm(fake_server: StartFakeServer) -> None:
    server = fake_server("--correct=1", "--malformed=0", "--truncated=0")
    for stream in (True, False):
        got = asyncio.run(complete(server.url, logprobs=True, stream=stream))
        assert got.logprobs
        assert len(got.logprobs.logprobs) == got.completion_tokens
        assert 0 < got.logprobs.reasoning_tokens < len(got.logprobs.logprobs)
