"""Shows what generate will send, and estimates its requests, tokens and cost, for `retort check`.

Without samples only upper bounds are known. Samples are asked for like those of generate, and not stored.
"""

from __future__ import annotations

import asyncio
import heapq
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean

import prompts
from filters.table import apply_rules
from pipeline.config import Recipe
from pipeline.config.endpoints import Teacher
from pipeline.config.ingest import TracesSource
from pipeline.config.redaction import redact
from pipeline.engine.changed_settings import is_current
from pipeline.engine.progress import plain, say
from pipeline.engine.scheduler import WorkItem
from pipeline.errors import UserError
from pipeline.generate.given_traces import given_ids
from pipeline.generate.price import price
from pipeline.generate.sample_plan import SampleRequest, sampling_seed
from pipeline.generate.sampler import Sampler
from pipeline.generate.stage import GENERATE, training_job
from pipeline.generate.usage import UsageLog, UsageMeter
from pipeline.inference import endpoint
from pipeline.inference.chat_request import chat_body
from pipeline.inference.http_errors import RequestFailed
from pipeline.ingest import sources
from pipeline.ingest.stage import INGEST
from pipeline.inspect.format import clip, money
from pipeline.inspect.why import rules_of_one
from pipeline.rows import Problem, Sampling, Trace

READ = 10_000  # problems that are read to count them
SHOWN = 2_000  # characters of a message
CHARACTERS = 4  # in a token, about, while no token has been counted


def print_preview(recipe: Recipe, run_dir: Path, samples: int) -> None:
    """Prints the first request and the estimate, unless generate has nothing to ask.

    Raises UserError if samples are wanted and cannot be had.
    """
    if not recipe.samples_problems or is_current(GENERATE, recipe, run_dir):
        if samples:
            raise UserError(
                "--samples: there is nothing to sample; generate is complete, or traces are given"
            )
        return
    found = list(islice(_problems(recipe, run_dir), READ))
    if not found:
        raise UserError("no problem to sample: the sources have none to train on")
    _print_request(recipe, found[0])
    chosen = heapq.nsmallest(samples, found, key=lambda problem: problem.id)  # ids are hashes
    if chosen:
        _announce(recipe, len(chosen))
    for teacher, traces in zip(recipe.teacher, _ask(recipe, chosen), strict=True):
        print()
        for line in _lines(recipe, teacher, found, traces):
            print(line)


def _problems(recipe: Recipe, run_dir: Path) -> Iterator[Problem]:
    """The problems to sample, in order: those of the run, or of the sources as ingest would read them."""
    table = recipe.ingest
    if is_current(INGEST, recipe, run_dir):
        for shard in INGEST.output(run_dir).shards():
            given = given_ids(shard)
            yield from (p for p in shard.rows() if p.split == "train" and p.id not in given)
        return
    seen = set()
    for source in sorted(table.sources, key=lambda source: source.split != "held_out"):
        if isinstance(source, TracesSource):
            continue
        for row in sources.read(source, table.held_out, recipe.seed):
            if isinstance(row, Problem) and row.id not in seen:
                seen.add(row.id)
                if row.split == "train":
                    yield row


def _print_request(recipe: Recipe, problem: Problem) -> None:
    teacher, table = recipe.teacher[0], recipe.generate
    messages = prompts.load(table.prompt or "").render(problem)
    sampling = Sampling(temperature=table.temperature, top_p=table.top_p, max_tokens=table.max_tokens)
    seed = sampling_seed(problem.id, 0, recipe.seed)
    asked = teacher.model_copy(update={"stream": teacher.stream and not teacher.batch})
    body = chat_body(asked, teacher.model, messages, sampling, seed, table.logprobs, None)
    fields = redact({k: v for k, v in body.items() if k not in ("messages", *teacher.omit)})
    served = "a file" if teacher.by_files else "vLLM on this machine"
    where = redact(teacher.base_urls[0]) if teacher.base_urls else served
    print(f"\nthe first request, to {where}:")
    print("  " + plain(", ".join(f"{name} = {value}" for name, value in fields.items())))
    for message in messages:
        print(f"  [{message.role}]")
        print(
            "".join(f"    {line}\n" for line in plain(clip(message.content, SHOWN) or "").splitlines()),
            end="",
        )


def _announce(recipe: Recipe, count: int) -> None:
    """Says what is about to be asked. Raises UserError for a teacher that no server has yet."""
    for teacher in recipe.teacher:
        if not teacher.base_urls:
            raise UserError(
                f"--samples asks a running server, and {teacher.display_name} has none: for a first look run "
                "`retort generate` with ingest.sources.0.limit=20; a higher limit later goes on from there"
            )
    names = ", ".join(teacher.display_name for teacher in recipe.teacher)
    say(f"asking {names} for {count} samples each: they are paid for, and not stored")


def _ask(recipe: Recipe, chosen: Sequence[Problem]) -> list[list[Trace]]:
    """A trace of each problem from each teacher, filtered; those that failed have an error."""
    if not chosen:
        return [[] for _ in recipe.teacher]

    async def ask_all() -> list[list[Trace]]:
        return await asyncio.gather(*(_ask_one(recipe, n, chosen) for n in range(len(recipe.teacher))))

    return asyncio.run(ask_all())


async def _ask_one(recipe: Recipe, number: int, chosen: Sequence[Problem]) -> list[Trace]:
    teacher, job = recipe.teacher[number], training_job(recipe)
    with tempfile.TemporaryDirectory() as folder:
        async with endpoint.client_for(teacher, recipe.generate.concurrency) as client:
            await client.check(say)
            meters = [UsageMeter(each.display_name, each, client.pool) for each in recipe.teacher]
            clients = [client] * len(recipe.teacher)
            unknown = [None] * len(recipe.teacher)  # generations, which these traces do not need
            sampler = Sampler(job, clients, UsageLog(Path(folder), meters), recipe.seed, unknown)
            items = [WorkItem(problem.id, SampleRequest(problem, number, 0)) for problem in chosen]
            return await asyncio.gather(*(_sample(sampler, recipe, item) for item in items))


async def _sample(sampler: Sampler, recipe: Recipe, item: WorkItem) -> Trace:
    try:
        trace = await sampler.process(item)
    except RequestFailed as e:
        return sampler.fallback_row(item, str(e))
    rules = rules_of_one(recipe.filter, trace)
    deciding = {name: given for name, given in rules.items() if name in recipe.filter.deciding}
    return await asyncio.to_thread(apply_rules, trace, deciding)


def _lines(
    recipe: Recipe, teacher: Teacher, problems: Sequence[Problem], traces: Sequence[Trace]
) -> Iterator[str]:
    """What a teacher gets to do, at most or as the samples say."""
    shares = sum(each.share or 0 for each in recipe.teacher)
    part = teacher.share / shares if teacher.share else 1
    requests = round(len(problems) * part) * recipe.generate.most_samples
    more = len(problems) == READ  # there may be more, whose number is not known
    enough, of_read = ("at least ", f" for the first {READ:,} problems") if more else ("", "")
    most = "up to " if recipe.generate.target_kept else ""
    number = f"{enough}{len(problems):,} problems, {most}{requests:,} samples"
    yield f"generate from {plain(teacher.display_name)}: {number}"
    counted = [t for t in traces if t.prompt_tokens is not None and t.completion_tokens is not None]
    if counted:
        yield from _sampled(traces)
        asked, said = (
            mean(getattr(t, name) for t in counted) for name in ("prompt_tokens", "completion_tokens")
        )
        bound = "about "
    else:
        text = prompts.load(recipe.generate.prompt or "")
        some = problems[:100]
        asked = mean(sum(len(m.content) for m in text.render(p)) / CHARACTERS for p in some)
        said, bound = recipe.generate.max_tokens * (1 + recipe.generate.max_continuations), "at most "
    cost = price(teacher, round(requests * asked), round(requests * said))
    yield (
        f"  about {requests * asked:,.0f} prompt tokens and {bound}{requests * said:,.0f} completion tokens; "
        + (f"{bound}{money(cost)} to pay" if cost is not None else "no price is set")
        + of_read
    )
    if not traces:
        yield "  `retort check RECIPE --samples 5` asks for some, and estimates from their lengths"


def _sampled(traces: Sequence[Trace]) -> Iterator[str]:
    lengths = [t.completion_tokens for t in traces if t.completion_tokens is not None]
    results = Counter(map(_result, traces))
    counts = ", ".join(f"{n} {result}" for result, n in results.most_common())
    yield f"  {len(traces)} samples of {min(lengths):,} to {max(lengths):,} tokens: {counts}"


def _result(trace: Trace) -> str:
    if trace.error is not None:
        return f"failed ({trace.error})"
    return trace.outcome if trace.outcome == "kept" else f"{trace.outcome} ({trace.reason})"
