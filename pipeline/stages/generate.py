"""generate: draw traces for problems from a model behind an OpenAI-compatible server.

Evaluation draws the same way, so what differs between the two is a value: a Draw.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import prompts
from pipeline import models, server, teacher
from pipeline.config import Endpoint, Evaluate, Generate, Recipe, identity
from pipeline.rows import Problem, Sampling, Split, Trace
from pipeline.server import Server
from pipeline.shard import Shard
from pipeline.stage import Job, Stage
from pipeline.units import Unit, work

# Engine arguments of vLLM that say how fast it answers, not what.
SPEED = frozenset(
    {
        "async_scheduling",
        "block_size",
        "data_parallel_size",
        "disable_log_stats",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "pipeline_parallel_size",
        "swap_space",
        "tensor_parallel_size",
    }
)


@dataclass(frozen=True)
class Draw:
    """What to ask of which model."""

    split: Split  # which problems
    model: str  # what every trace names as its teacher
    prompt: str
    table: Generate | Evaluate  # samples, temperature, top_p, max_tokens, concurrency, accept_failed
    endpoint: Endpoint
    reach: Callable[[Job], AbstractContextManager[Server]]


def settings(draw: Draw, seed: int) -> dict[str, Any]:
    """All that changes the traces: the model, how its weights are read, the prompt's text, the sampling."""
    weights = served_as(draw.endpoint)
    table = {k: v for k, v in identity(draw.table).items() if "prompt" not in k}
    prompt = prompts.load(draw.prompt)
    return {
        "model": draw.model,
        "weights": weights,
        "prompt": {"name": prompt.name, "text": prompt.text},
        **table,
        "split": draw.split,
        "seed": seed,
    }


def served_as(endpoint: Endpoint) -> dict[str, Any]:
    """The engine arguments that may change what the model says: all but those known to be about speed."""
    return {k: v for k, v in endpoint.vllm.items() if k not in SPEED}


@contextlib.contextmanager
def reach(endpoint: Endpoint, model: str, name: str, job: Job) -> Iterator[Server]:
    """The server that answers for a model: started here as `name` and stopped after, or already there."""
    if endpoint.base_url is not None:
        yield Server(base_url=endpoint.base_url, model=endpoint.model)
    else:
        log = job.logs / f"vllm-{name}.log"
        with server.serving(endpoint, models.resolve(model, job.say), name, log, job.say) as started:
            yield started


def run(job: Job, draw: Draw) -> dict[str, Any]:
    """Draw every trace that is owed. The report says nothing that the rows do not."""
    if job.owes_nothing():
        return {}
    with draw.reach(job) as reached:
        asyncio.run(_draw_all(job, draw, reached))
    return {}


async def _draw_all(job: Job, draw: Draw, reached: Server) -> None:
    prompt = prompts.load(draw.prompt)
    make = partial(_trace, draw=draw, prompt=prompt, seed=job.recipe.seed)
    sampling = _sampling(draw)
    wanted = sum(len(_units(problems, draw)) for problems, _ in job.pairs())
    async with teacher.Client(draw.endpoint, reached.base_url, reached.model) as client:
        await client.check()

        async def do(asked: tuple[Problem, int]) -> Trace:
            problem, sample = asked
            seed = sampling_seed(problem.id, sample, job.recipe.seed)
            completion = await client.complete(prompt.render(problem), sampling, seed)
            return make(asked, completion=completion)

        with job.progress(wanted) as progress:
            await work(
                ((traces, partial(_units, problems, draw)) for problems, traces in job.pairs()),
                do,
                lambda asked, error: make(asked, error=error),
                concurrency=draw.table.concurrency,
                accept=int(draw.table.accept_failed * wanted),
                progress=progress,
                watch=reached.died,
            )


def _units(problems: Shard, draw: Draw) -> Sequence[Unit]:
    return [
        Unit(trace_id(problem.id, sample), (problem, sample))
        for problem in problems.rows()
        if problem.split == draw.split
        for sample in range(draw.table.samples)
    ]


def trace_id(problem_id: str, sample: int) -> str:
    return f"{problem_id}-{sample:04d}"


def sampling_seed(problem_id: str, sample: int, run_seed: int) -> int:
    """A seed of 31 bits from the unit alone, so that order and concurrency change nothing."""
    text = json.dumps([run_seed, problem_id, sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _sampling(draw: Draw) -> Sampling:
    table = draw.table
    return Sampling(temperature=table.temperature, top_p=table.top_p, max_tokens=table.max_tokens)


def _trace(
    asked: tuple[Problem, int],
    *,
    draw: Draw,
    prompt: prompts.Prompt,
    seed: int,
    completion: teacher.Completion | None = None,
    error: str | None = None,
) -> Trace:
    """The row of a unit: with what the model answered, or with the error that it gave up on."""
    problem, sample = asked
    answer = completion or teacher.Completion(None, "", "failed", None, None)
    return Trace(
        id=trace_id(problem.id, sample),
        problem_id=problem.id,
        sample=sample,
        question=problem.question,
        reference=problem.reference,
        answer_type=problem.answer_type,
        source=problem.source,
        metadata=problem.metadata,
        teacher=draw.model,
        prompt=prompt.name,
        prompt_hash=prompt.hash,
        sampling=_sampling(draw),
        seed=sampling_seed(problem.id, sample, seed),
        reasoning=answer.reasoning,
        response=answer.response,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        error=error,
    )


def check_endpoint(endpoint: Endpoint) -> None:
    """What can be known of a model before any work: that it is there, that its server can be had."""
    server.check(endpoint)
    if endpoint.serve is not None:
        models.check(endpoint.model)


def _teacher(recipe: Recipe) -> Draw:
    table, endpoint = recipe.generate, recipe.teacher
    reached = partial(reach, endpoint, endpoint.model, models.label(endpoint.model))
    return Draw("train", endpoint.model, table.prompt, table, endpoint, reached)


def _check(recipe: Recipe) -> None:
    prompts.load(recipe.generate.prompt)
    check_endpoint(recipe.teacher)


GENERATE = Stage(
    name="generate",
    version=1,
    row=Trace,
    mirrors="ingest",
    reads=("ingest",),
    settings=lambda recipe: settings(_teacher(recipe), recipe.seed),
    check=_check,
    run=lambda job: run(job, _teacher(job.recipe)),
)
