"""A teacher behind a URL, without a training: what it is paid for is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.config.train import OnPolicy
from pipeline.errors import Stopped
from pipeline.generate.usage import EndpointUsage, read_attempts
from tests import tiny_student
from tests.serving import served

torch = pytest.importorskip("torch")

ANSWERS = [[7, 8, 0], [9, 0, 0]]  # padded with 0


def used_of(
    folder: Path, usage: dict[str, int] | None, calls: int, fails_at: int | None = None
) -> EndpointUsage:
    """Has the answers read `calls` times; the teacher refuses from request `fails_at` on."""
    from pipeline.train.trainer.remote_teacher import RemoteTeacher

    asked = 0

    async def read(http: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == fails_at:
            return web.json_response({"error": {"message": "no"}}, status=400)
        tokens = (await http.json())["prompt"]
        entries = [{str(token): {"logprob": -1.0}} for token in tokens[1:]]
        choice = {"text": " ", "finish_reason": "length", "prompt_logprobs": [None, *entries]}
        return web.json_response({"choices": [choice], "usage": usage})

    batch = {"prompt_ids": torch.full((2, 2), 5), "prompt_mask": torch.ones(2, 2)}
    batch |= {"completion_ids": torch.tensor(ANSWERS), "completion_mask": (torch.tensor(ANSWERS) > 0).float()}
    with served(read) as url:
        endpoint = Endpoint(model="fake", base_url=url, price_per_mtok_in=1e6, price_per_mtok_out=0)
        teacher = RemoteTeacher(endpoint, OnPolicy(beta=1), folder)
        for _ in range(calls):
            columns = teacher.read(batch, tiny_student.tokenizer())
            assert columns["logprobs"].tolist() == [[-1, -1, 0], [-1, 0, 0]]
    (attempt,) = read_attempts(folder)
    (used,) = attempt.endpoints
    return used


def test_requests_tokens_and_money_of_all_steps_are_recorded(tmp_path: Path) -> None:
    used = used_of(tmp_path, {"prompt_tokens": 4, "completion_tokens": 1}, calls=3)
    assert (used.teacher, used.requests, used.prompt_tokens, used.completion_tokens) == ("fake", 6, 24, 6)
    assert (used.spend, used.uncounted) == (24, 0)


def test_tokens_that_the_server_does_not_count_are_unknown_and_not_0(tmp_path: Path) -> None:
    used = used_of(tmp_path, None, calls=1)
    assert (used.requests, used.uncounted, used.spend) == (2, 2, None)


def test_a_step_that_fails_is_recorded_as_far_as_it_came(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="did not read an answer"):
        used_of(tmp_path, {"prompt_tokens": 4, "completion_tokens": 1}, calls=2, fails_at=3)
    (attempt,) = read_attempts(tmp_path)
    assert attempt.endpoints[0].requests >= 3
    assert attempt.endpoints[0].prompt_tokens >= 8
