"""Turns a model of the recipe into a reachable client: connects to its server or starts vLLM for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.config.endpoints import Endpoint, Judge
from pipeline.config.evaluate import Evaluate
from pipeline.config.generate import Generate
from pipeline.engine.stage import Job
from pipeline.inference import model_files, vllm_server
from pipeline.inference.client import Client
from pipeline.inference.pruning import Pruning
from pipeline.inference.vllm_server import Server


def check(endpoint: Endpoint) -> None:
    """Raises UserError for what is wrong before any request: a missing model, a server that cannot start."""
    vllm_server.check(endpoint)
    if endpoint.serve is not None:
        model_files.check(endpoint.model)


@contextmanager
def reach(
    endpoint: Endpoint,
    model: str,
    name: str,
    job: Job,
    sampling: Generate | Evaluate | Judge,
    *,
    logprobs: int | None = None,
    pruning: Pruning | None = None,
) -> Iterator[Server]:
    """Yields the server of a model: an existing one, or vLLM started as `name` for the time of the block.

    That of a model asked by files has no URL.
    `sampling` bounds the length and the number of concurrent responses; `pruning` prunes the model first.
    """
    if endpoint.base_urls or endpoint.by_files:
        yield Server(base_urls=endpoint.base_urls, model=endpoint.model)
        return
    path = model_files.resolve(model, job.say, pruning)
    arguments = vllm_arguments(endpoint, job.say, logprobs)
    arguments |= vllm_server.max_num_seqs(arguments, path, sampling.max_tokens, sampling.concurrency, job.say)
    endpoint = endpoint.model_copy(update={"vllm": arguments})
    with vllm_server.serving(endpoint, path, name, job.logs / f"vllm-{name}.log", job.say) as server:
        yield server


def vllm_arguments(
    endpoint: Endpoint, say: Callable[[str], None], logprobs: int | None = None
) -> dict[str, Any]:
    """Returns the recipe's engine arguments, with what log-probabilities and a draft model need."""
    arguments: dict[str, Any] = dict(endpoint.vllm)
    if logprobs and logprobs > vllm_server.MAX_LOGPROBS:
        arguments.setdefault("max_logprobs", logprobs)
    draft = arguments.get("speculative_config")
    if isinstance(draft, dict) and "model" in draft:
        arguments["speculative_config"] = draft | {"model": model_files.resolve(str(draft["model"]), say)}
    return arguments


def client_for(
    endpoint: Endpoint, concurrency: int, server: Server | None = None, answered: bool = False
) -> Client:
    """The client of a server that `reach` yielded, or of the endpoint's own URLs.

    answered: it has served an earlier command well.
    """
    server = server or Server(endpoint.base_urls, endpoint.model)
    return Client(
        endpoint,
        server.base_urls,
        server.model,
        concurrency=concurrency,
        own_server=server.child is not None,
        answered=answered,
    )
