"""`retort status`: what the stages of a run hold, its cost and its results; or one line for each run.

A document is made from the folder first, then printed as tables or as JSON, so both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from pipeline import generations
from pipeline.engine.progress import duration, plain
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.evaluate.metrics import Comparison, Summary, comparisons, summarise
from pipeline.filter.funnel import Yield
from pipeline.generate import usage
from pipeline.generate.limits import limits_of
from pipeline.inspect import chain_table, diversity, score_table
from pipeline.inspect.chain_table import ChainStep
from pipeline.inspect.compression import Compression, compression_of
from pipeline.inspect.costs import Cost, costs, total_spend
from pipeline.inspect.diversity import RunDiversity, diversity_of
from pipeline.inspect.failures import counts_of
from pipeline.inspect.format import at_least, count, money
from pipeline.inspect.run import Run, open_run
from pipeline.inspect.show import print_grid, print_lines
from pipeline.rows import Row

COST_COLUMNS = (
    "teacher",
    "source",
    "traces",
    "prompt tokens",
    "completion tokens",
    "spent",
    "kept",
    "spent per kept",
)


class RunLine(Row):
    run: str
    stages: int  # of its recipe; 0 for a run that cannot be read
    complete: tuple[str, ...]  # stages
    working_on: tuple[str, ...]  # stages
    kept: int | None  # traces; None before filtering
    unreadable: str | None = None  # why nothing else is known


class Runs(Row):
    """The document that `retort status --json` prints."""

    runs: tuple[RunLine, ...]


class StageLine(Row):
    stage: str
    state: str  # running, complete, partial, outdated, unfinished, not started
    rows: int
    failed: int  # rows of failed samples that were accepted, too
    shards: int
    sealed: int  # of the shards
    seconds: float | None  # over all attempts that have ended; None before the first


class StageUsage(Row):
    """Use of the teachers, an LLM judge, or a model in evaluate, over all attempts: also of lost rows."""

    stage: str
    requests: int
    prompt_tokens: int | None  # None when nothing was counted
    completion_tokens: int | None
    uncounted: int  # answers without token counts: tokens and spend are then lower bounds
    spend: float | None  # None when the recipe gives no price, or nothing was counted


class Requests(Row):
    """Requests of generate over all attempts."""

    requests: int
    retries: dict[str, int]  # reason -> number
    seconds: float


class Limit(Row):
    """A limit of generate, and what all attempts have used of it."""

    setting: str
    used: float
    limit: float


class Status(Row):
    """The document that `retort status RUN --json` prints."""

    run: str
    folder: str
    stages: tuple[StageLine, ...]
    progress: tuple[str, ...]  # the progress of each stage that is sampling now; the sum of its workers
    filtered: Yield | None  # None before filtering
    costs: tuple[Cost, ...]
    usage: tuple[StageUsage, ...]
    requests: Requests | None
    limits: tuple[Limit, ...]
    scores: tuple[Summary, ...]  # empty before evaluate is complete
    comparisons: tuple[Comparison, ...]
    compression: Compression | None  # of a run whose compressed students are evaluated
    chain: tuple[ChainStep, ...]  # the runs of its rounds or its cascade
    diversity: RunDiversity | None  # of the traces; None before filtering
    generation: str | None  # of the student: "1", or "1+" for at least 1; None: unknown


def runs_of(folder: Path) -> Runs:
    """One line for each run of a folder, also for a run that cannot be read."""
    folders = sorted(path.parent for path in folder.glob("*/recipe.json"))
    if not folders:
        raise UserError(f"{folder}: no runs there; `retort run RECIPE` makes one")
    return Runs(runs=tuple(_line(path) for path in folders))


def status_of(run: Run) -> Status:
    """The status as the run's folder has it now."""
    seconds = run.seconds()
    scores = list(run.scores) if run.output("evaluate").complete else []
    summaries = summarise(scores)
    report = run.report("filter")
    return Status(
        run=run.path.name,
        folder=str(run.path),
        stages=tuple(
            StageLine(stage=stage, state=run.state(stage), **vars(counts), seconds=seconds.get(stage))
            for stage, counts in counts_of(run).items()
        ),
        progress=tuple(_progress(run)),
        filtered=Yield(**{name: report[name] for name in Yield.model_fields}) if report else None,
        costs=tuple(costs(run)),
        usage=tuple(_usage(run)),
        requests=_requests(run),
        limits=tuple(_limits(run)),
        scores=tuple(summaries),
        comparisons=tuple(comparisons(scores)),
        compression=compression_of(run, summaries) if scores else None,
        chain=tuple(chain_table.steps_of(run.recipe, run.path.parent)),
        diversity=diversity_of(run) if report else None,
        generation=run.report("train").get("generation"),
    )


def print_document(document: Runs | Status) -> None:
    if isinstance(document, Runs):
        _print_runs(document)
        return
    _print_stages(document)
    print_lines(*document.progress, *_limit_lines(document), *_yield_lines(document))
    if document.generation:
        print_lines(f"the student is of generation {generations.words(document.generation)}")
    if document.costs:
        _print_costs(document)
    if document.scores:
        run = open_run(document.folder)
        score_table.print_scores(run, document.scores, document.comparisons, document.compression)
    if document.chain:
        print_lines("")
        chain_table.print_chain(open_run(document.folder).recipe, document.chain)


def _print_runs(document: Runs) -> None:
    table = Table("run", "complete", "working on", "rows kept", box=None)
    for r in document.runs:
        note = r.unreadable or ", ".join(r.working_on) or "-"
        table.add_row(plain(r.run), f"{len(r.complete)}/{r.stages or '?'}", plain(note), count(r.kept))
    print_grid(table)


def _print_stages(s: Status) -> None:
    table = Table("stage", "state", "rows", "failed", "sealed", "seconds", box=None)
    for line in s.stages:
        shards = f"{line.sealed}/{line.shards}" if line.shards else "-"
        time = "-" if line.seconds is None else f"{line.seconds:.0f}"
        table.add_row(line.stage, line.state, f"{line.rows:,}", f"{line.failed:,}", shards, time)
    print_grid(table)


def _print_costs(s: Status) -> None:
    """Prints the cost of generate by teacher and source, then the use of other models and the retries."""
    table = Table(*COST_COLUMNS, box=None)
    for c in s.costs:
        amounts = (count(c.prompt_tokens), count(c.completion_tokens), money(c.spend), money(c.per_kept))
        *used, per_kept = (at_least(amount, c.uncounted) for amount in amounts)
        table.add_row(plain(c.teacher), plain(c.source), f"{c.traces:,}", *used, count(c.kept), per_kept)
    print_lines("")
    print_grid(table)
    for u in s.usage:
        parts = (count(u.prompt_tokens), count(u.completion_tokens), money(u.spend))
        read, written, spent = (at_least(part, u.uncounted) for part in parts)
        print_lines(
            f"{u.stage}: {u.requests} requests, {read} prompt and {written} completion tokens, {spent} spent"
        )
    if r := s.requests:
        retries = ", ".join(f"{number} {reason}" for reason, number in r.retries.items())
        print_lines(f"{r.requests} requests in {duration(r.seconds)}; retries: {retries or 'none'}")


def _line(folder: Path) -> RunLine:
    try:
        run = open_run(folder)
        outputs = {stage: run.output(stage) for stage in run.stages}
        return RunLine(
            run=folder.name,
            stages=len(outputs),
            complete=tuple(stage for stage, output in outputs.items() if output.complete),
            working_on=tuple(stage for stage, output in outputs.items() if output.busy),
            kept=run.report("filter").get("kept"),
        )
    except UserError as e:
        return RunLine(run=folder.name, stages=0, complete=(), working_on=(), kept=None, unreadable=str(e))


def _progress(run: Run) -> Iterator[str]:
    for stage in ("generate", *run.answer_stages()):
        output = run.output(stage)
        attempts = usage.running(output.folder) if output.busy else ()
        if len(attempts) > 1:
            yield _sum_line(stage, output, attempts)
        elif attempts:
            yield attempts[0].line


def _sum_line(stage: str, output: Output, workers: Sequence[usage.Attempt]) -> str:
    """What several workers do together; spent is what all attempts have spent."""
    counts = output.counts()
    speeds = [sum(each.completion_tokens for each in w.endpoints) / max(w.seconds, 1) for w in workers]
    _, retries = usage.count_requests(workers)
    used = [each for attempt in usage.read_attempts(output.folder) for each in attempt.endpoints]
    spent, uncounted = total_spend(used), sum(each.uncounted for each in used)
    parts = (
        f"{len(workers)} workers",
        f"{counts.rows:,} rows",
        f"{counts.failed:,} failed" if counts.failed else "",
        f"{at_least(f'{sum(speeds):,.0f}', uncounted)} tokens/s",
        f"{retries.total():,} retries" if retries else "",
        f"{at_least(money(spent), uncounted)} spent" if spent is not None else "",
    )
    return f"{stage}: " + ", ".join(filter(None, parts))


def _usage(run: Run) -> Iterator[StageUsage]:
    for stage in ("generate", *run.answer_stages(), "train"):
        used = [a for attempt in usage.read_attempts(run.output(stage).folder) for a in attempt.endpoints]
        uncounted = sum(u.uncounted for u in used)
        nothing = None if uncounted else 0
        if used:
            yield StageUsage(
                stage=stage,
                requests=sum(u.requests for u in used),
                prompt_tokens=sum(u.prompt_tokens for u in used) or nothing,
                completion_tokens=sum(u.completion_tokens for u in used) or nothing,
                uncounted=uncounted,
                spend=total_spend(used),
            )


def _requests(run: Run) -> Requests | None:
    attempts = usage.read_attempts(run.output("generate").folder)
    requests, retries = usage.count_requests(attempts)
    seconds = sum(attempt.seconds for attempt in attempts)
    return (
        Requests(requests=requests, retries=dict(retries.most_common()), seconds=seconds)
        if attempts
        else None
    )


def _limits(run: Run) -> Iterator[Limit]:
    limits = limits_of(run.recipe)
    attempts = usage.read_attempts(run.output("generate").folder) if limits.given else ()
    usages = [used for attempt in attempts for used in attempt.endpoints]
    if limits.max_cost is not None:
        yield Limit(setting="max_cost", used=limits.cost(usages), limit=limits.max_cost)
    if limits.max_tokens_total is not None:
        tokens = limits.tokens(usages)
        yield Limit(setting="max_tokens_total", used=tokens, limit=limits.max_tokens_total)


def _limit_lines(s: Status) -> Iterator[str]:
    for each in s.limits:
        yield f"generate.{each.setting}: {each.used:,.10g} of {each.limit:,.10g} used"


def _yield_lines(s: Status) -> Iterator[str]:
    if s.filtered:
        yield f"\n{s.filtered.traces} traces: {s.filtered.kept} kept; `retort why` shows examples"
        yield from (f"  {n:>6} rejected, {reason}" for reason, n in s.filtered.rejected.items())
        yield from (f"  {n:>6} undecided, {reason}" for reason, n in s.filtered.undecided.items())
    if s.diversity:
        yield from map(plain, diversity.lines(s.diversity))
