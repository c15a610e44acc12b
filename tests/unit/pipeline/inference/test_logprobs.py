from __future__ import annotations

import asyncio
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import UserError
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.logprobs import logprob_fields
from pipeline.inference.response import Completion
from pipeline.rows import Logprobs
from tests.serving import SAMPLING, Script, answered, client, complete, events, serving, stop, usage

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer

TEXT = ["<think>", "\n", "why", "</", "think", ">", "\n\n", "so \u00e9", ""]


def token(i: int, text: str | None, logprob: float = -0.5, top: dict[int, float] | None = None) -> Any:
    """A token as vLLM sends it if ids are requested."""
    others = [{"token": f"token_id:{t}", "logprob": lp, "bytes": []} for t, lp in (top or {}).items()]
    raw = None if text is None else list(text.encode())
    return {"token": f"token_id:{i}", "logprob": logprob, "bytes": raw, "top_logprobs": others}


def chat(tokens: list[Any], finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    message = message or {"content": "".join(TEXT)}
    return {
        "choices": [{"message": message, "logprobs": {"content": tokens}, "finish_reason": finish_reason}]
    }


def row(*answers: Any, k: int = 0, **settings: Any) -> Logprobs:
    got = answered(*answers, logprobs=k, **settings).logprobs
    assert got
    return got


def test_sampled_tokens_are_stored_with_the_top_k_in_order() -> None:
    tokens = [
        token(7, "<think>why</think>so", -2.123456789, {7: -2.123456789, 5: -0.2, 6: -0.7}),
        token(8, ".", -0.1, {8: -0.1, 9: -math.inf}),
    ]
    assert row(chat(tokens, content="<think>why</think>so."), k=2) == Logprobs(
        k=2,
        reasoning_tokens=1,
        tokens=(7, 8),
        logprobs=(-2.12346, -0.1),
        top_tokens=(5, 6, 8, 9),
        top_logprobs=(-0.2, -0.7, -0.1, -9999),
    )


def test_missing_candidates_are_filled_up() -> None:
    got = row(chat([token(7, "so", -0.1, {7: -0.1})], content="so"), k=3)
    assert (got.top_tokens, got.top_logprobs) == ((7, -1, -1), (-0.1, -9999, -9999))


@pytest.mark.parametrize("k", [1, 5, 19, 20, 40])
def test_one_candidate_more_is_requested_up_to_20(k: int) -> None:
    assert logprob_fields(k)["top_logprobs"] == (k + 1 if k < 20 else k)
    assert logprob_fields(0) == {"logprobs": True}


@pytest.mark.parametrize("way", ["one body", "a stream"])
def test_the_end_of_the_reasoning_is_found_in_the_tokens(way: str) -> None:
    tokens = [token(i, text) for i, text in enumerate(TEXT)]
    if way == "one body":
        body: Any = chat(tokens)
    else:
        pieces = [{"choices": [{"delta": {"content": t}, "logprobs": {"content": [lp]}}]}
                  for t, lp in zip(TEXT, tokens, strict=True)]  # fmt: skip
        body = events(*pieces, stop())
    got = row(body)
    assert (got.reasoning_tokens, len(got.tokens)) == (6, len(TEXT))


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
    assert (
        row(chat([token(i, text) for i, text in enumerate(texts)], **message)).reasoning_tokens
        == reasoning_tokens
    )


def test_truncated_reasoning_has_all_of_the_tokens() -> None:
    assert (
        row(chat([token(1, "<think>"), token(2, "why")], "length", content="<think>why")).reasoning_tokens
        == 2
    )


def test_without_candidates_tokens_may_be_named_by_text() -> None:
    words = [{"token": text, "logprob": -1, "bytes": None} for text in ("why", "</think>", "so")]
    got = row(chat(words, content="why</think>so"))
    assert got == Logprobs(
        k=0, reasoning_tokens=2, tokens=(-1, -1, -1), logprobs=(-1, -1, -1), top_tokens=(), top_logprobs=()
    )


def test_log_probabilities_of_a_continuation_are_appended() -> None:
    before = Logprobs(
        k=1, reasoning_tokens=2, tokens=(1, 2), logprobs=(-1, -2), top_tokens=(1, 3), top_logprobs=(-1, -0.1)
    )
    truncated = Completion("why ", "", "length", 5, 2, before, thinking=True)
    tokens = [token(4, "not</think>", -0.3, {4: -0.3}), token(5, "so", -0.4, {5: -0.4})]
    got = row(chat(tokens, content="not</think>so"), k=1, before=truncated)
    assert got == Logprobs(
        k=1,
        reasoning_tokens=3,
        tokens=(1, 2, 4, 5),
        logprobs=(-1, -2, -0.3, -0.4),
        top_tokens=(1, 3, 4, 5),
        top_logprobs=(-1, -0.1, -0.3, -0.4),
    )
    open_still = row(chat([token(4, "not", -0.3, {4: -0.3})], "length", content="not"), k=1, before=truncated)
    assert open_still.reasoning_tokens == 3


def test_an_empty_response_has_no_log_probabilities() -> None:
    assert row(chat([], content=None)).tokens == ()


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ({"choices": [{"message": {"content": "so"}}]}, "sends no log-probabilities"),
        (chat([{"token": "so", "logprob": -1, "top_logprobs": []}], content="so"), "lack token ids"),
        (chat([token(1, None), token(2, None)], reasoning="why", content="so"), "lack the tokens' bytes"),
    ],
)
def test_a_server_without_log_probabilities_is_reported(body: Any, missing: str) -> None:
    with pytest.raises(UserError, match=f"^http.*/v1: model 'fake': .*{missing}.*; vLLM gives them$"):
        row(body, k=2)
    good = chat([token(7, "so", -0.1, {7: -0.1})], content="so")

    async def ask() -> None:
        async with serving(Script(good, body)) as url, client(url, max_retries=0) as teacher:
            await teacher.complete([], SAMPLING, 1, logprobs=2)
            with pytest.raises(RequestFailed, match=re.escape(missing)):
                await teacher.complete([], SAMPLING, 1, logprobs=2)

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
        {"content": [{"token": "token_id:x", "logprob": -1}]},
        {"content": [{"token": "token_id:99999999999", "logprob": -1}]},
        {"content": [{"token": "a", "logprob": -1, "bytes": [300]}]},
        {"content": [{"token": "a", "logprob": -1, "bytes": 10**12}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": [None]}]},
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
        answered(events(whole, stop(), usage(1, 1)).replace('"PART"', sent), logprobs=1)


def test_the_fake_server_sends_log_probabilities_like_vllm(fake_server: StartFakeServer) -> None:
    server = fake_server("--correct=1", "--malformed=0", "--truncated=0")
    for stream in (True, False):
        got = asyncio.run(complete(server.url, logprobs=3, stream=stream))
        assert got.logprobs
        n = got.completion_tokens
        assert len(got.logprobs.tokens) == n
        assert len(got.logprobs.top_tokens) == len(got.logprobs.top_logprobs) == 3 * (n or 0)
        assert 0 < got.logprobs.reasoning_tokens < len(got.logprobs.tokens)
