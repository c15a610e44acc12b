"""How a model reads given tokens, over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.response import PromptLogprobs
from tests.serving import Script, client, serving


def entry(logprob: Any, rank: int = 1, text: str | None = None) -> dict[str, Any]:
    return {"logprob": logprob, "rank": rank, "decoded_token": text}


# Of the prompt 5, 6, 7, 8 with k = 2; the token 8 is not among the two likeliest.
POSITIONS = [
    None,
    {"6": entry(-0.1), "9": entry(-3.0, 2)},
    {"9": entry(-1.2, 2), "7": entry(-0.5, 1, "seven")},
    {"8": entry(-9.25, 40, "eight"), "3": entry(-0.25), "4": entry(-2, 2)},
]


def response(positions: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": " ", "finish_reason": "length", "prompt_logprobs": positions}
    return {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 1}}


def read(*answers: Any, tokens: tuple[int, ...] = (5, 6, 7, 8), last: int = 2) -> tuple[Any, Script]:
    script = Script(*answers)

    async def ask() -> Any:
        async with serving(script) as url, client(url, max_retries=1) as teacher:
            return await teacher.read(tokens, last, 2)

    return asyncio.run(ask()), script


def test_the_last_tokens_get_the_likeliest_at_their_positions() -> None:
    completion, script = read(response(POSITIONS))
    found: PromptLogprobs = completion.prompt_logprobs
    assert list(found.logprobs) == [-0.5, -9.25]
    assert list(found.top_tokens) == [7, 9, 3, 4]
    assert list(found.top_logprobs) == [-0.5, -1.2, -0.25, -2]
    assert list(found.texts) == ["seven", "eight"]
    assert (completion.prompt_tokens, completion.completion_tokens) == (4, 1)
    (asked,) = script.asked
    assert (asked["prompt"], asked["prompt_logprobs"], asked["max_tokens"]) == ([5, 6, 7, 8], 2, 1)


def test_a_position_with_fewer_candidates_is_padded() -> None:
    completion, _ = read(response([*POSITIONS[:3], {"8": entry(-0.1)}]))
    assert list(completion.prompt_logprobs.top_tokens)[2:] == [8, -1]


def test_a_failed_attempt_is_retried() -> None:
    completion, script = read(500, response(POSITIONS))
    assert completion.prompt_logprobs
    assert len(script.asked) == 2


def test_a_server_without_prompt_logprobs_is_reported() -> None:
    with pytest.raises(UserError, match=r"it sends no prompt_logprobs, which soft labels need; vLLM gives"):
        read(response(None))


@pytest.mark.parametrize(
    "positions",
    [
        [*POSITIONS[:3], {"7": entry(-0.1)}],  # lacks the token that was sent: out of line
        POSITIONS[:1],  # too few
        [*POSITIONS[:3], {"8": entry("much")}],
        [*POSITIONS[:3], {"8": entry(float("nan"))}],
        [*POSITIONS[:3], {"8": -0.1}],
        [*POSITIONS[:3], {"8": entry(-0.1), "eight": entry(-3)}],
        "four",
    ],
)
def test_positions_that_cannot_be_read_are_no_labels(positions: Any) -> None:
    with pytest.raises(RequestFailed, match="its prompt_logprobs cannot be read"):
        read(response(positions))
