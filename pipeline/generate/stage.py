"""generate: samples traces for problems from models behind OpenAI-compatible servers.

`sample` also serves evaluate, which samples in the same way.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import compress
from typing import Any

import prompts
from filters.table import check_rules
from pipeline.config import Recipe
from pipeline.config.endpoints import Teacher
from pipeline.config.generate import Generate
from pipeline.engine.asynchronous import run_async
from pipeline.engine.earlier_rows import take_over
from pipeline.engine.query import query
from pipeline.engine.scheduler import Plan, run_items
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import Stopped, UserError
from pipeline.generate import batches, sampler
from pipeline.generate.asking import from_first_open
from pipeline.generate.expected import ExpectedTraces
from pipeline.generate.given_traces import take_over_given
from pipeline.generate.limits import check_limits, limits_of
from pipeline.generate.sample_plan import FILTERING, SampleBudget, make_plan, trace_id
from pipeline.generate.sampler import Model, Sampler, SamplingJob
from pipeline.generate.usage import UsageLog, UsageMeter, read_attempts
from pipeline.generate.valid_traces import TRACE_KEY, contradiction, earlier_traces, for_problems
from pipeline.hardware import cores
from pipeline.inference import endpoint, engines, model_files
from pipeline.inference.batch_client import BatchClient
from pipeline.inference.client import Client
from pipeline.inference.vllm_server import Server
from pipeline.ingest.stage import INGEST
from pipeline.rows import Problem, Question, Trace


def prepare(sampling: SamplingJob, job: Job) -> None:
    """Checks that the prompt can be filled for every problem, then takes over what is valid of before."""
    prompt = prompts.load(sampling.prompt)
    if prompt.columns:
        shards = [job.input_shard(traces) for traces in job.share()]
        prompt.check(p for shard in shards for p in _problems(shard, sampling, sampling.given(shard)))
    take_over_traces(sampling, job, prompt.render)


def take_over_traces(sampling: SamplingJob, job: Job, render: Callable[[Question], Any]) -> None:
    """Copies the valid traces of earlier results into the journals of the open shards."""
    earlier = earlier_traces(job)
    if earlier is None:
        return
    taken = 0
    for traces in job.share():
        if not traces.sealed:
            given = sampling.given(job.input_shard(traces))
            problems = {p.id: p for p in _problems(job.input_shard(traces), sampling, given)}
            possible = {
                trace_id(p.id, teacher, i)
                for p in problems.values()
                for teacher in _teachers_of(p, sampling.models)
                for i in range(sampling.budget.max_samples)
            }
            found = (t for t in for_problems(earlier, problems, render) if t.id in possible)
            taken += take_over(traces, found)
    if taken:
        names = {model.name for model in sampling.models}
        for output in earlier.outputs:
            made_by = engines.recorded(output.folder)
            engines.record(job.output.folder, {name: made_by[name] for name in names & made_by.keys()})
        job.say(f"{job.stage.name}: {taken} traces are taken over from earlier results")


def sample(sampling: SamplingJob, job: Job, shards: Iterable[Shard]) -> None:
    """Samples every trace that the shards lack; with --partial seals them as they are."""
    plan = partial(_plan, job, sampling, lambda samples: None)
    if job.options.partial:
        for traces in shards:
            plan(traces).seal()
        return
    remaining = from_first_open(shards, plan)
    if remaining is None:
        return
    used = [usage for attempt in read_attempts(job.output.folder) for usage in attempt.endpoints]
    if reached := sampling.limits.reached(used):
        raise Stopped(reached)
    with ExitStack() as stack:
        servers = [stack.enter_context(model.reach(job)) for model in sampling.models]
        gc.freeze()  # scanning the imported modules in every collection costs a tenth of the time
        stack.callback(gc.unfreeze)  # what stays frozen is never freed; DuckDB complains of it at exit
        run_async(_sample_all(sampling, job, servers, remaining))


async def _sample_all(
    sampling: SamplingJob, job: Job, servers: Sequence[Server], shards: Iterable[Shard]
) -> None:
    table, limits = sampling.table, sampling.limits
    expected = ExpectedTraces(sampling, [(job.input_shard(t), t) for t in job.share()])
    answered = job.output.counts().rows > 0
    async with AsyncExitStack() as stack:
        clients: list[Client | BatchClient] = []
        for model, server in zip(sampling.models, servers, strict=True):
            client = batches.client_for(model, job) or endpoint.client_for(
                model.endpoint, table.concurrency, server, answered
            )
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            await client.check(job.say)
            if sampling.budget.max_continuations:
                await client.check_continuing(sampling.logprobs)
        pairs = zip(sampling.models, servers, strict=True)
        made_by = {m.name: await engines.describe(m.endpoint, server) for m, server in pairs}
        engines.record(job.output.folder, made_by)
        meters = [
            UsageMeter(m.name, m.endpoint, c.pool) for m, c in zip(sampling.models, clients, strict=True)
        ]
        usage = UsageLog(job.output.folder, meters, servers=servers)
        made_by_models = [_generation(*pair) for pair in zip(sampling.models, servers, strict=True)]
        worker = Sampler(sampling, clients, usage, job.recipe.seed, made_by_models)
        progress = stack.enter_context(job.progress(expected.total()))
        await stack.enter_async_context(usage.reporting(progress, expected.total))
        await stack.enter_async_context(batches.sending(clients, worker.active))
        await run_items(
            shards,
            partial(_plan, job, sampling, expected.add),
            worker.process,
            worker.fallback_row,
            slots={str(i): batches.slots(client) or table.concurrency for i, client in enumerate(clients)},
            follow_up_slots={FILTERING: 2 * len(cores())},
            max_failed=lambda: int(table.max_failed_fraction * expected.sampled()) - expected.already_failed,
            progress=progress,
            health_check=lambda: next(filter(None, (server.died() for server in servers)), None),
            limit_reached=lambda running: (
                limits.reached([*usage.usages(), *batches.expected(clients, meters, running, table)])
                if limits.given
                else None
            ),
        )
        batches.saved(clients)


def _generation(model: Model, server: Server) -> str | None:
    """As the recipe states it, or as the folder of a model served here does."""
    if model.generation is not None:
        return str(model.generation)
    return model_files.generation(server.path) if server.path else None


def _plan(job: Job, sampling: SamplingJob, on_finished: Callable[[int], None], traces: Shard) -> Plan:
    problems = job.input_shard(traces)
    given = sampling.given(problems)
    wanted = [
        (p, [] if p.id in given else _teachers_of(p, sampling.models)) for p in _problems(problems, sampling)
    ]
    return make_plan(wanted, traces, sampling.budget, on_finished, given)


def _problems(shard: Shard, sampling: SamplingJob, without: Collection[str] = ()) -> list[Problem]:
    return [p for p in shard.rows() if p.split == sampling.split and p.id not in without]


def _teachers_of(problem: Problem, models: Sequence[Model]) -> list[int]:
    """The models that get a problem: all without a share, and one of the others, by the problem's id."""
    shares = [(i, model.share) for i, model in enumerate(models) if model.share is not None]
    position = int(hashlib.sha256(f"teacher {problem.id}".encode()).hexdigest()[:13], 16) / 16**13
    position *= sum(share for _, share in shares)
    chosen = None
    for i, share in shares:
        chosen = i
        position -= share
        if position < 0:
            break
    return [i for i, model in enumerate(models) if model.share is None or i == chosen]


def _unsent_fields(output: Output) -> dict[str, list[str]]:
    """Teacher -> the sampling fields that some of its sealed traces were requested without."""
    fields = {"seed": "seed", "temperature": "sampling.temperature", "top_p": "sampling.top_p"}
    missing = ", ".join(f"bool_or({column} is null)" for column in fields.values())
    sampled = "from rows where sampling is not null"
    select = f"select teacher, {missing} {sampled} group by teacher order by teacher"
    rows = query(output.sealed_paths(), ("teacher", "sampling", "seed"), select)
    found = {teacher: list(compress(fields, unsent)) for teacher, *unsent in rows}
    return {teacher: names for teacher, names in found.items() if names}


def training_job(recipe: Recipe) -> SamplingJob:
    """The sampling that makes the training data. Without problems to sample it has no models."""
    table = recipe.generate
    teachers = recipe.teacher if recipe.samples_problems else ()
    return SamplingJob(
        split="train",
        models=tuple(_model(teacher, table) for teacher in teachers),
        prompt=table.prompt or "",
        table=table,
        budget=SampleBudget(table.most_samples, table.target_kept, table.max_continuations),
        filters=recipe.filter.deciding,
        logprobs=table.logprobs,
        takes_given=True,
        limits=limits_of(recipe),
    )


def _model(teacher: Teacher, table: Generate) -> Model:
    label = model_files.label(teacher.display_name)
    reach = partial(endpoint.reach, teacher, teacher.model, label, sampling=table)
    return Model(teacher.display_name, teacher, reach, teacher.share, teacher.generation)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return sampler.settings(training_job(recipe), recipe.seed)


def _check(recipe: Recipe) -> None:
    check_rules(recipe.filter.rules)
    if not recipe.samples_problems:
        return
    if not recipe.teacher:
        raise UserError(
            "no [teacher] to sample the problems: add one, or give traces of them with "
            'kind = "traces" in [[ingest.sources]]'
        )
    prompts.load(recipe.generate.prompt or "")
    check_limits(recipe)
    for teacher in recipe.teacher:
        endpoint.check(teacher)
    folders = [batches.folder_of(teacher.display_name) for teacher in recipe.teacher if teacher.batch]
    if twice := next((name for name in folders if folders.count(name) > 1), None):
        raise UserError(f"two teachers share the folder {twice!r} of batches: name one of them: name = ...")


def _prepare(job: Job) -> None:
    take_over_given(job)
    if (sampling := training_job(job.recipe)).models:
        prepare(sampling, job)


def _work(job: Job, shards: Iterable[Shard]) -> None:
    sample(training_job(job.recipe), job, shards)


def report(job: Job) -> dict[str, Any]:
    """The fields that were not sent, as the traces say, and the engines that made them."""
    unsent = _unsent_fields(job.output)
    made_by = {
        name: [engine.model_dump() for engine in found]
        for name, found in engines.recorded(job.output.folder).items()
    }
    return ({"not_sent": unsent} if unsent else {}) | {"engines": made_by}


GENERATE = Stage(
    name="generate",
    version=6,  # 6: the generation of the teacher; log-probabilities of sampled tokens alone
    row=Trace,
    reads=(INGEST,),
    shards_from="ingest",
    settings=_settings,
    check=_check,
    prepare=_prepare,
    work=_work,
    report=report,
    asks_models=True,
    contradiction=contradiction,
    key=TRACE_KEY,
)
