"""What to draw of which models, and how one unit of it becomes a row: asked, continued, judged.

Generate and evaluate draw the same way; what differs between them is a value, a SamplingJob. Leaves out which
samples are wanted (sampling.py) and who runs the units (units.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import filters
import prompts
from pipeline.config.base import identity
from pipeline.config.endpoints import Endpoint
from pipeline.config.evaluation import Evaluate
from pipeline.config.traces import Generate
from pipeline.engine.scheduler import WorkItem
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.errors import Stopped
from pipeline.generate import sample_plan
from pipeline.generate.sample_plan import FAILED, JUDGE, SampleRequest
from pipeline.generate.usage import Ledger
from pipeline.inference.client import Client
from pipeline.inference.http import RequestFailed
from pipeline.inference.response import Completion
from pipeline.inference.vllm_server import Server
from pipeline.rows import Sampling, Split, Trace

# Engine arguments of vLLM that say how fast it answers, not what.
PERFORMANCE_ARGS = frozenset(
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
        "max_logprobs",
        "max_num_batched_tokens",
        "max_num_seqs",
        "pipeline_parallel_size",
        "speculative_config",
        "stream_interval",
        "swap_space",
        "tensor_parallel_size",
    }
)
_WHERE = frozenset({"prompt", "teacher_prompt", "held_out", "sets"})  # they say where, not how it is sampled
EMPTY_COMPLETION = Completion(None, "", FAILED, None, None)  # the answer of a request that has none
PREVIEW_INTERVAL = 0.05  # seconds, at least, between two traces judged for the line of progress alone


@dataclass(frozen=True)
class Model:
    """A model to ask."""

    name: str  # what every trace names as its teacher
    endpoint: Endpoint
    reach: Callable[[Job], AbstractContextManager[Server]]
    share: float | None = None  # of the problems, in proportion to the others' shares; None: all


@dataclass(frozen=True)
class SamplingJob:
    """What to ask of which models."""

    split: Split  # which problems
    models: tuple[Model, ...]
    prompt: str
    table: Generate | Evaluate  # temperature, top_p, max_tokens, concurrency, max_failed_fraction
    wanted: sample_plan.Rules
    filters: filters.Rules  # what makes a trace a kept one
    logprobs: int | None = None


def settings(draw: SamplingJob, seed: int) -> dict[str, Any]:
    """All that changes the traces: the models, how their weights are read, the prompt, the sampling."""
    prompt = prompts.load(draw.prompt)
    judging = {"rules": filters.versions(draw.filters)} if draw.wanted.until is not None else {}
    return {
        "teachers": [
            model_settings(model.name, model.endpoint) | {"share": model.share} for model in draw.models
        ],
        "prompt": {"name": prompt.name, "text": prompt.text},
        **{k: v for k, v in identity(draw.table).items() if k not in _WHERE},
        **judging,
        "split": draw.split,
        "seed": seed,
    }


def model_settings(name: str, endpoint: Endpoint) -> dict[str, Any]:
    """What changes the answers of one model: which it is, how its weights are read, what it is sent along."""
    return {
        "name": name,
        "model": endpoint.model,
        "weights": output_affecting_args(endpoint),
        "extra_body": endpoint.extra_body,
        **not_sent(endpoint),
    }


def not_sent(endpoint: Endpoint) -> dict[str, list[str]]:
    """The settings of sampling that the recipe leaves out of requests; {} where it leaves out none."""
    omitted = [str(name) for name in sorted(endpoint.omit) if name != "stream_options"]
    return {"omit": omitted} if omitted else {}


def unsent_in(output: Output) -> dict[str, list[str]]:
    """Teacher -> the settings of sampling that some of its traces were drawn without; none: no entry.

    Of sealed shards, as their rows have it: it is the same however often the stage was resumed.
    """
    found: dict[str, set[str]] = {}
    for shard in output.shards():
        if shard.sealed:
            for batch in shard.batches(leave_out=set(Trace.model_fields) - {"teacher", "sampling", "seed"}):
                columns = (batch.column("seed"), *batch.column("sampling").flatten())
                for row in batch.to_pylist() if any(column.null_count for column in columns) else ():
                    values = row["sampling"] | {"seed": row["seed"]}
                    if unsent := {name for name, value in values.items() if value is None}:
                        found.setdefault(row["teacher"], set()).update(unsent)
    return {teacher: sorted(names) for teacher, names in sorted(found.items())}


def output_affecting_args(endpoint: Endpoint) -> dict[str, Any]:
    """The engine arguments that may change what the model says: all but those known to be about speed."""
    return {k: v for k, v in endpoint.vllm.items() if k not in PERFORMANCE_ARGS}


class Sampler:
    """Does one unit: asks for a sample, goes on with one that was cut, or judges one."""

    def __init__(self, draw: SamplingJob, clients: Sequence[Client], ledger: Ledger, seed: int) -> None:
        self._draw, self._clients, self._ledger, self._seed = draw, clients, ledger, seed
        self._prompt = prompts.load(draw.prompt)
        table = draw.table
        self._sampling = Sampling(
            temperature=table.temperature, top_p=table.top_p, max_tokens=table.max_tokens
        )
        self._peeking: asyncio.Task[None] | None = None

    async def do(self, unit: WorkItem) -> Trace:
        ask: SampleRequest = unit.args
        if unit.lane == JUDGE:
            assert ask.row is not None
            return await self._judged(ask.row)
        if ask.row is not None:
            return await self._continued(ask, ask.row)
        seed = sample_plan.sampling_seed(ask.problem.id, ask.sample, self._seed)
        trace = self._trace(ask, seed, await self._complete(ask, seed))
        self._preview_yield(trace)
        return trace

    def give_up(self, unit: WorkItem, error: str) -> Trace:
        """The row of a unit that failed: what there was of it before, with the error."""
        ask: SampleRequest = unit.args
        seed = sample_plan.sampling_seed(ask.problem.id, ask.sample, self._seed)
        nothing = replace(EMPTY_COMPLETION, unsent=self._clients[ask.teacher].unsent)
        row = ask.row or self._trace(ask, seed, nothing)
        return row.model_copy(update={"error": error})

    async def _complete(self, ask: SampleRequest, seed: int, so_far: Completion | None = None) -> Completion:
        completion = await self._clients[ask.teacher].complete(
            self._prompt.render(ask.problem),
            self._sampling,
            seed,
            logprobs=self._draw.logprobs,
            so_far=so_far,
        )
        self._ledger.meters[ask.teacher].add(completion, so_far)
        return completion

    async def _continued(self, ask: SampleRequest, row: Trace) -> Trace:
        seed = sample_plan.sampling_seed(row.problem_id, row.sample, self._seed, row.continuations + 1)
        try:
            completion = await self._complete(ask, seed, sample_plan.completion_of(row))
        except RequestFailed as e:
            if not e.refused:
                raise
            return row.model_copy(update={"error": f"could not be continued: {e}"})
        seed_sent = row.seed if "seed" not in completion.unsent else None
        return row.model_copy(
            update=_said(completion)
            | {"continuations": row.continuations + 1}
            | {"sampling": _sent(row.sampling, completion), "seed": seed_sent}
        )

    async def _judged(self, row: Trace) -> Trace:
        outcome = (await asyncio.to_thread(filters.judge, row, self._draw.filters)).outcome
        self._ledger.outcomes[outcome] += 1
        return row.model_copy(update={"outcome": outcome})

    def _preview_yield(self, trace: Trace) -> None:
        """Judge a trace now and then, so that people see early how many are kept. It changes no row."""
        if self._draw.wanted.until is not None or trace.answer_type == "free":
            return
        if self._peeking is None or self._peeking.done():
            self._peeking = asyncio.create_task(self._peek_at(trace))

    async def _peek_at(self, trace: Trace) -> None:
        with suppress(Stopped):  # no checking process: the filter stage will say so
            await self._judged(trace)
            await asyncio.sleep(PREVIEW_INTERVAL)

    def _trace(self, ask: SampleRequest, seed: int, completion: Completion) -> Trace:
        """The row of a sample."""
        problem = ask.problem
        return Trace(
            id=sample_plan.trace_id(problem.id, ask.teacher, ask.sample),
            problem_id=problem.id,
            sample=ask.sample,
            question=problem.question,
            reference=problem.reference,
            answer_type=problem.answer_type,
            source=problem.source,
            metadata=problem.metadata,
            teacher=self._draw.models[ask.teacher].name,
            prompt=self._prompt.name,
            prompt_hash=self._prompt.hash,
            sampling=_sent(self._sampling, completion),
            seed=None if "seed" in completion.unsent else seed,
            **_said(completion),
        )


def _sent(asked: Sampling, completion: Completion) -> Sampling:
    """The sampling without what the server was not sent."""
    unsent = completion.unsent & {"temperature", "top_p"}
    return asked.model_copy(update=dict.fromkeys(unsent)) if unsent else asked


def _said(completion: Completion) -> dict[str, Any]:
    """The fields of a trace that an answer fills."""
    logprobs = completion.logprobs
    values, thought = (logprobs.logprobs, logprobs.thought) if logprobs else ((), 0)
    return {
        "reasoning": completion.reasoning,
        "response": completion.response,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "logprobs": logprobs,
        "reasoning_logprob": _mean(values[:thought]),
        "response_logprob": _mean(values[thought:]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
