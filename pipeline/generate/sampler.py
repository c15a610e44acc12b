"""Turns one work item into a trace: samples, continues truncated reasoning, or filters.

Generate and evaluate share this module; a `SamplingJob` holds what differs. `sample_plan.py` decides which
samples are needed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import prompts
from filters.table import Rules, apply_rules, with_versions
from pipeline.config.base import identity
from pipeline.config.endpoints import Endpoint
from pipeline.config.evaluate import Evaluate
from pipeline.config.generate import Generate
from pipeline.config.mix import ThinkingSwitch
from pipeline.engine.scheduler import WorkItem
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.errors import Stopped
from pipeline.generate.given_traces import given_ids
from pipeline.generate.limits import Limits
from pipeline.generate.sample_plan import (
    FAILED,
    FILTERING,
    SampleBudget,
    SampleRequest,
    completion_of,
    sampling_seed,
    trace_id,
)
from pipeline.generate.usage import UsageLog
from pipeline.inference.batch_client import BatchClient
from pipeline.inference.client import Client
from pipeline.inference.fingerprint import model_settings
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.response import Completion
from pipeline.inference.thinking import asked_messages
from pipeline.inference.vllm_server import Server
from pipeline.rows import Question, Sampling, Split, Trace

# Settings recorded elsewhere
_NOT_SAMPLING = frozenset({"prompt", "teacher_prompt", "held_out", "sets", "models", "modes", "draft_tokens"})
GENERATION = "generation"  # the setting of a model, which changes no response
# Its row does not tell closed reasoning from reasoning that goes on, which alone can be continued
BETWEEN = "could not be continued: it was truncated between reasoning and response"
EMPTY_COMPLETION = Completion(None, "", FAILED, None, None)
PREVIEW_INTERVAL = 0.05  # seconds, at least, between two traces filtered for the progress line only


@dataclass(frozen=True)
class Model:
    """A model to sample from."""

    name: str  # stored as the traces' teacher
    endpoint: Endpoint
    reach: Callable[[Job], AbstractContextManager[Server]]
    share: float | None = None  # of the problems, relative to the other models' shares; None: all problems
    generation: int | None = None  # as the recipe states it


@dataclass(frozen=True)
class SamplingJob:
    """Which problems are sampled from which models, and how."""

    split: Split
    models: tuple[Model, ...]
    prompt: str
    table: Generate | Evaluate  # temperature, top_p, max_tokens, concurrency, max_failed_fraction
    budget: SampleBudget
    filters: Rules  # decide whether a trace counts as kept
    logprobs: bool = False
    limits: Limits = field(default_factory=Limits)
    takes_given: bool = False  # the traces that sources gave; no model is asked for their problems
    no_think: ThinkingSwitch | None = None  # where the words that switch thinking off stand; None: not sent

    def given(self, problems: Shard) -> dict[str, list[str]]:
        """Problem -> the ids of its given traces, for problems that are not sampled."""
        return given_ids(problems) if self.takes_given else {}


def settings(sampling: SamplingJob, seed: int) -> dict[str, Any]:
    """Everything that changes the traces: models, prompt, sampling. Without models nothing is sampled."""
    if not sampling.models:
        return {"teachers": [], "split": sampling.split}
    prompt = prompts.load(sampling.prompt)
    filtering = {}
    if sampling.budget.target_kept is not None:
        filtering = {"rules": with_versions(sampling.filters)}
    return {
        "teachers": [_model_settings(model) for model in sampling.models],
        "prompt": {"name": prompt.name, "text": prompt.text},
        **{k: v for k, v in identity(sampling.table).items() if k not in _NOT_SAMPLING},
        **filtering,
        **({"no_think": sampling.no_think} if sampling.no_think else {}),
        "split": sampling.split,
        "seed": seed,
    }


def _model_settings(model: Model) -> dict[str, Any]:
    stated = {} if model.generation is None else {GENERATION: model.generation}
    return {**model_settings(model.name, model.endpoint), "share": model.share, **stated}


class Sampler:
    """Processes work items: requests a sample, continues a truncated one, or filters one."""

    def __init__(
        self,
        job: SamplingJob,
        clients: Sequence[Client | BatchClient],
        usage: UsageLog,
        seed: int,
        generations: Sequence[str | None],
    ) -> None:
        """clients, generations: of the job's models."""
        self._generations = generations
        self._job, self._clients, self._usage, self._seed = job, clients, usage, seed
        self._prompt = prompts.load(job.prompt)
        self._sampling = Sampling(
            temperature=job.table.temperature, top_p=job.table.top_p, max_tokens=job.table.max_tokens
        )
        self._preview: asyncio.Task[None] | None = None
        self.active: Counter[int] = Counter()  # items being processed, by the position of their teacher

    async def process(self, item: WorkItem) -> Trace:
        teacher = item.payload.teacher
        self.active[teacher] += 1
        try:
            return await self._process(item)
        finally:
            self.active[teacher] -= 1

    async def _process(self, item: WorkItem) -> Trace:
        request: SampleRequest = item.payload
        if request.row is None:
            return await self._sample(request)
        if item.queue == FILTERING:
            return await self._filter(request.row)
        return await self._continue(request, request.row)

    def fallback_row(self, item: WorkItem, error: str) -> Trace:
        """The row of a failed item: its previous row or an empty one, with the error."""
        request: SampleRequest = item.payload
        empty = replace(EMPTY_COMPLETION, unsent=self._clients[request.teacher].unsent)
        row = request.row or self._trace(request, self._seed_of(request), empty)
        return row.model_copy(update={"error": error})

    async def _sample(self, request: SampleRequest) -> Trace:
        seed = self._seed_of(request)
        trace = self._trace(request, seed, await self._complete(request, seed))
        self._preview_yield(trace)
        return trace

    async def _continue(self, request: SampleRequest, row: Trace) -> Trace:
        continuations = row.continuations + 1
        seed = self._seed_of(request, continuations)
        try:
            completion = await self._complete(request, seed, completion_of(row))
        except RequestFailed as e:
            if not e.refused:
                raise
            return row.model_copy(update={"error": f"could not be continued: {e}"})
        return row.model_copy(
            update={
                **_response_fields(completion),
                "continuations": continuations,
                "sampling": _sent(row.sampling or self._sampling, completion),
                "seed": row.seed if "seed" not in completion.unsent else None,
            }
        )

    async def _filter(self, row: Trace) -> Trace:
        outcome = (await asyncio.to_thread(apply_rules, row, self._job.filters)).outcome
        self._usage.outcomes[outcome] += 1
        return row.model_copy(update={"outcome": outcome})

    async def _complete(
        self, request: SampleRequest, seed: int, so_far: Completion | None = None
    ) -> Completion:
        completion = await self._clients[request.teacher].complete(
            asked_messages(self._prompt.render(request.problem), self._job.no_think, thinking=False),
            self._sampling,
            seed,
            logprobs=self._job.logprobs,
            before=so_far,
        )
        self._usage.meters[request.teacher].add(completion, so_far)
        return completion

    def _seed_of(self, request: SampleRequest, continuations: int = 0) -> int:
        return sampling_seed(request.problem.id, request.sample, self._seed, continuations)

    def _preview_yield(self, trace: Trace) -> None:
        """Filters a trace now and then, so that people see early how many are kept. It changes no row."""
        if self._job.budget.target_kept is not None or trace.answer_type == "free":
            return
        if self._preview is None or self._preview.done():
            self._preview = asyncio.create_task(self._preview_one(trace))

    async def _preview_one(self, trace: Trace) -> None:
        with suppress(Stopped):  # the checking process cannot start; the filter stage reports that
            await self._filter(trace)
            await asyncio.sleep(PREVIEW_INTERVAL)

    def _trace(self, request: SampleRequest, seed: int, completion: Completion) -> Trace:
        problem = request.problem
        return Trace(
            id=trace_id(problem.id, request.teacher, request.sample),
            problem_id=problem.id,
            sample=request.sample,
            **problem.model_dump(include=set(Question.model_fields)),
            teacher=self._job.models[request.teacher].name,
            teacher_generation=self._generations[request.teacher],
            prompt=self._prompt.name,
            prompt_hash=self._prompt.hash,
            sampling=_sent(self._sampling, completion),
            seed=None if "seed" in completion.unsent else seed,
            **_response_fields(completion),
        )


def _sent(sampling: Sampling, completion: Completion) -> Sampling:
    """The sampling settings, without those that the server was not sent."""
    return sampling.model_copy(update=dict.fromkeys(completion.unsent & {"temperature", "top_p"}))


def _response_fields(completion: Completion) -> dict[str, Any]:
    """The fields of a trace that come from the response."""
    logprobs = completion.logprobs
    values, reasoning_tokens = (logprobs.logprobs, logprobs.reasoning_tokens) if logprobs else ((), 0)
    closed = completion.reasoning is not None and not completion.response and not completion.thinking
    return {
        "reasoning": completion.reasoning,
        "response": completion.response,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "logprobs": logprobs,
        "reasoning_logprob": _mean(values[:reasoning_tokens]),
        "response_logprob": _mean(values[reasoning_tokens:]),
        "error": BETWEEN if closed and completion.finish_reason == "length" else None,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
