"""What a teacher behind a URL makes of the student's samples, the losses of it, and what it is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.config.train import OnPolicy
from pipeline.errors import Stopped
from pipeline.generate.usage import EndpointUsage, read_attempts
from tests import tiny_student
from tests.conftest import StartFakeServer
from tests.serving import served

pytest.importorskip("trl")


def teacher(folder: Path, url: str = "http://127.0.0.1:1/v1", beta: float = 1, **settings: Any) -> Any:
    from pipeline.train.trainer.remote_teacher import RemoteTeacher

    endpoint = Endpoint(model="fake", base_url=url, max_retries=0, unavailable_timeout=1)
    return RemoteTeacher(endpoint, OnPolicy(beta=beta, **settings), folder)


def test_the_sampled_estimate_has_the_reverse_kl_and_its_gradient_as_means(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    logits = torch.randn(1, 7, dtype=torch.float64, requires_grad=True)
    log_p = torch.randn(7, dtype=torch.float64).log_softmax(-1)
    q = logits.log_softmax(-1)[0]
    kl = (q.exp() * (q - log_p)).sum()
    (expected,) = torch.autograd.grad(kl, logits, retain_graph=True)
    values, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(expected)
    for token in range(7):  # the mean over all samples
        loss = teacher(tmp_path).loss(logits, torch.tensor([token]), log_p[token : token + 1]).sum()
        weight = q[token].exp().detach()
        values += weight * loss.detach()
        gradient += weight * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(values, kl.detach())
    torch.testing.assert_close(gradient, expected)


def test_the_forward_kl_is_that_of_the_likeliest_tokens_and_the_rest(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import losses

    logits, ids = torch.randn(2, 9), torch.tensor([[3.0, 1.0], [8.0, -1.0]])
    logprobs = torch.tensor([[-0.5, -1.5], [-0.1, -9999.0]])
    made = teacher(tmp_path, beta=0, top_k=2).loss(logits, torch.tensor([3, 8]), ids, logprobs)
    torch.testing.assert_close(made, losses.topk_kl(logits, ids.long(), logprobs))


@pytest.mark.parametrize("beta", [0, 1])
def test_a_batch_gets_the_teacher_s_numbers_at_the_tokens_of_its_answers(
    beta: int, fake_server: StartFakeServer, tmp_path: Path
) -> None:
    import torch

    batch = {
        "prompt_ids": torch.tensor([[2, 50, 60], [70, 80, 90]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[10, 11, 2, 2], [12, 13, 14, 2]]),
        "completion_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    tokenizer, url = tiny_student.tokenizer(), fake_server().url
    asked = teacher(tmp_path, url, beta, top_k=3)
    made = asked.read(batch, tokenizer)
    alone = asked.read({name: each[:1] for name, each in batch.items()}, tokenizer)
    assert tuple(made) == asked.columns
    for name, values in made.items():
        assert values.shape == (2, 4) + ((3,) if beta == 0 else ())
        assert (values[0, 3] == 0).all()
        assert (values[1] != 0).all()
        torch.testing.assert_close(values[:1], alone[name])


def test_a_teacher_that_cannot_be_reached_stops_the_training_for_now(tmp_path: Path) -> None:
    import torch

    ids, mask = torch.tensor([[5, 6]]), torch.ones(1, 2)
    batch = {"prompt_ids": ids, "prompt_mask": mask, "completion_ids": ids, "completion_mask": mask}
    with pytest.raises(Stopped, match="no response: connection refused"):
        teacher(tmp_path).read(batch, tiny_student.tokenizer())


def used_of(
    folder: Path, usage: dict[str, int] | None, calls: int, fails_at: int | None = None
) -> EndpointUsage:
    """Has the answers read `calls` times; the teacher refuses from request `fails_at` on."""
    import torch

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

    answers = torch.tensor([[7, 8, 0], [9, 0, 0]])  # padded with 0
    batch = {"prompt_ids": torch.full((2, 2), 5), "prompt_mask": torch.ones(2, 2)}
    batch |= {"completion_ids": answers, "completion_mask": (answers > 0).float()}
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
