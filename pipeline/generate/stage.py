"""generate: draw traces for problems from models behind OpenAI-compatible servers.

Evaluation draws the same way: `reach`, `check` and `run` serve both.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

import filters
import prompts
from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint, Judge, Teacher
from pipeline.config.evaluation import Evaluate
from pipeline.config.traces import Generate
from pipeline.engine.progress import Progress
from pipeline.engine.scheduler import Plan, work
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.generate import sample_plan, sampler
from pipeline.generate.sample_plan import FAILED, JUDGE
from pipeline.generate.sampler import Model, Sampler, SamplingJob
from pipeline.generate.usage import SAVE_EVERY, Ledger, UsageMeter
from pipeline.hardware import cores
from pipeline.inference import model_files, vllm_server
from pipeline.inference.client import Client
from pipeline.inference.vllm_server import Server
from pipeline.rows import Problem, Trace


@contextlib.contextmanager
def reach(
    endpoint: Endpoint,
    model: str,
    name: str,
    logprobs: int | None,
    job: Job,
    layers: int | None = None,
    *,
    table: Generate | Evaluate | Judge,
) -> Iterator[Server]:
    """The server that answers for a model: started here as `name` and stopped after, or already there.

    With `layers` it is the model cut to so many that is served. `table`: how long and how many at once its
    answers may be.
    """
    if endpoint.base_urls:
        yield Server(base_urls=endpoint.base_urls, model=endpoint.model)
    else:
        log = job.logs / f"vllm-{name}.log"
        path = model_files.resolve(model, job.say, layers)
        arguments = _engine(endpoint, logprobs, job)
        arguments |= vllm_server.at_once(arguments, path, table.max_tokens, table.concurrency, job.say)
        endpoint = endpoint.model_copy(update={"vllm": arguments})
        with vllm_server.serving(endpoint, path, name, log, job.say) as started:
            yield started


def _engine(endpoint: Endpoint, logprobs: int | None, job: Job) -> dict[str, Any]:
    """vLLM's arguments: the recipe's, with what the run asks for beside them."""
    arguments: dict[str, Any] = dict(endpoint.vllm)
    if logprobs and logprobs > vllm_server.MAX_LOGPROBS:
        arguments.setdefault("max_logprobs", logprobs)
    draft = arguments.get("speculative_config")
    if isinstance(draft, dict) and "model" in draft:  # it may be named in every way that a model may
        arguments["speculative_config"] = draft | {"model": model_files.resolve(str(draft["model"]), job.say)}
    return arguments


def check(endpoint: Endpoint) -> None:
    """What can be known of a model before any work: that it is there, that its server can be had."""
    vllm_server.check(endpoint)
    if endpoint.serve is not None:
        model_files.check(endpoint.model)


def run(job: Job, draw: SamplingJob) -> dict[str, Any]:
    """Draw every trace that is owed. The report says nothing that the rows do not."""
    if not job.owes_nothing():
        _draw(job, draw)
    unsent = sampler.unsent_in(job.output)
    return {"not_sent": unsent} if unsent else {}


def _draw(job: Job, draw: SamplingJob) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(model.reach(job)) for model in draw.models]
        gc.freeze()  # what is imported stays; looking through it again and again costs a tenth of the time
        asyncio.run(_draw_all(job, draw, servers))


async def _draw_all(job: Job, draw: SamplingJob, servers: Sequence[Server]) -> None:
    pairs = job.pairs()
    expected = _Expected(draw, pairs)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                client_of(model.endpoint, reached, draw.table.concurrency, job.output.counts().rows > 0)
            )
            for model, reached in zip(draw.models, servers, strict=True)
        ]
        for client in clients:
            await client.check(job.say)
            if draw.wanted.max_continuations:
                await client.check_continuing(draw.logprobs)
        meters = [UsageMeter(m.name, m.endpoint, c.tally) for m, c in zip(draw.models, clients, strict=True)]
        ledger = Ledger(job.output.folder, meters)
        drawer = Sampler(draw, clients, ledger, job.recipe.seed)
        with job.progress(expected.total()) as progress:
            await stack.enter_async_context(reporting(progress, ledger, expected.total))
            await work(
                ((traces, partial(_plan, problems, traces, draw, expected)) for problems, traces in pairs),
                drawer.do,
                drawer.give_up,
                slots={str(i): draw.table.concurrency for i in range(len(clients))},
                after={JUDGE: 2 * len(cores())},
                accept=lambda: int(draw.table.max_failed_fraction * expected.total()) - expected.given_up,
                progress=progress,
                watch=lambda: next(filter(None, (reached.died() for reached in servers)), None),
            )


def client_of(endpoint: Endpoint, reached: Server, concurrency: int, answered: bool = False) -> Client:
    """A client of a server that `reach` gave; `answered`: it did so well in an earlier try."""
    return Client(
        endpoint,
        reached.base_urls,
        reached.model,
        concurrency=concurrency,
        ours=reached.child is not None,
        answered=answered,
    )


def _plan(problems: Shard, traces: Shard, draw: SamplingJob, expected: _Expected) -> Plan:
    asked = [(p, _asked(p, draw.models)) for p in problems.rows() if p.split == draw.split]
    return sample_plan.plan(asked, traces, draw.wanted, expected.add)


def _given_up(traces: Shard) -> int:
    if traces.sealed:
        return traces.column("finish_reason").count(FAILED)
    held = traces.held(("finish_reason",)).rows.values()
    return sum(row["finish_reason"] == FAILED for row in held)


def _asked(problem: Problem, asked: Sequence[Model]) -> list[int]:
    """Which models a problem goes to: every one without a share, and one of those with; by its id alone."""
    sharing = [(i, model.share) for i, model in enumerate(asked) if model.share is not None]
    at = int(hashlib.sha256(f"teacher {problem.id}".encode()).hexdigest()[:13], 16) / 16**13
    at *= sum(share for _, share in sharing)
    chosen = None
    for i, share in sharing:
        chosen = i
        at -= share
        if at < 0:
            break
    return [i for i, model in enumerate(asked) if model.share is None or i == chosen]


class _Expected:
    """How many traces there will be; where sampling adapts, judged by the problems that have enough."""

    def __init__(self, draw: SamplingJob, pairs: Sequence[tuple[Shard, Shard]]) -> None:
        per_problem = sum(m.share is None for m in draw.models) + any(m.share for m in draw.models)
        self._most = draw.wanted.most
        self._series = self._finished = self._drawn = 0
        self.given_up = 0  # by earlier commands
        for problems, traces in pairs:
            series = per_problem * problems.column("split").count(draw.split)
            self._series += series
            if traces.sealed:
                self._finished += series
                self._drawn += traces.count().rows
            if draw.table.max_failed_fraction:
                self.given_up += _given_up(traces)

    def add(self, samples: int) -> None:
        """A problem has all the samples of one teacher that it needs."""
        self._finished += 1
        self._drawn += samples

    def total(self) -> int:
        each = self._drawn / self._finished if self._finished else self._most
        return self._drawn + round((self._series - self._finished) * each)


@contextlib.asynccontextmanager
async def reporting(progress: Progress, ledger: Ledger, total: Callable[[], int]) -> AsyncIterator[None]:
    """Keep the line of progress and the ledger's file up to date while the block runs."""

    async def report() -> None:
        progress.note, progress.total = ledger.note(), total()
        await asyncio.to_thread(ledger.save, progress.line())

    async def keep() -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY)
            await report()

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await report()


def draw_of(recipe: Recipe) -> SamplingJob:
    """What the recipe wants drawn for training."""
    table = recipe.generate
    return SamplingJob(
        split="train",
        models=tuple(_model(teacher, table) for teacher in recipe.teacher),
        prompt=table.prompt,
        table=table,
        wanted=sample_plan.Rules(table.most, table.target_kept, table.max_continuations),
        filters=recipe.filter.rules,
        logprobs=table.logprobs,
    )


def _model(teacher: Teacher, table: Generate) -> Model:
    label = model_files.label(teacher.display_name)
    reached = partial(reach, teacher, teacher.model, label, table.logprobs, table=table)
    return Model(teacher.display_name, teacher, reached, teacher.share)


def _check(recipe: Recipe) -> None:
    prompts.load(recipe.generate.prompt)
    filters.check_rules(recipe.filter.rules)
    for teacher in recipe.teacher:
        check(teacher)


GENERATE = Stage(
    name="generate",
    version=2,
    row=Trace,
    shards_from="ingest",
    reads=("ingest",),
    settings=lambda recipe: sampler.settings(draw_of(recipe), recipe.seed),
    check=_check,
    run=lambda job: run(job, draw_of(job.recipe)),
    tables=("generate", "teacher"),
)
