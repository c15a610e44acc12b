"""judge: a model says of free-text answers whether they are right; a part of filter, in a folder of its own.

It is asked as the teacher is: what it said is on disk before it counts, a failed request is tried again by
the same command. Of equal texts in a shard it is asked once. Leaves out what an answer says (judge_verdicts.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import prompts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.endpoints import Judge
from pipeline.engine.scheduler import Plan, WorkItem, work
from pipeline.engine.shard import Shard
from pipeline.engine.stage import DONE, Job, Stage, execute
from pipeline.engine.store import Output
from pipeline.errors import Stopped
from pipeline.filter.judge_verdict import FAILED, is_judged, opinion_id, read_verdict
from pipeline.generate import sampler
from pipeline.generate import stage as generate
from pipeline.generate.sample_plan import sampling_seed
from pipeline.generate.usage import Ledger, UsageMeter
from pipeline.inference.client import Client
from pipeline.inference.vllm_server import Server
from pipeline.rows import FilterOutcome, JudgeVerdict, Outcome, Sampling, Trace

_READ = ("id", "question", "reference", "response", "answer_type")  # of a trace
_AS_OUTCOME: dict[FilterOutcome, Outcome] = {"passed": "kept", "failed": "rejected", "undecided": "undecided"}


def settings(recipe: Recipe) -> dict[str, Any]:
    """All that changes the judge_verdicts: the model, how its weights are read, the prompt, the sampling."""
    judge = _judge(recipe)
    prompt = prompts.load(judge.prompt, judging=True)
    return {
        **identity(judge),
        "weights": sampler.output_affecting_args(judge),
        **sampler.not_sent(judge),
        "prompt": {"name": prompt.name, "text": prompt.text},
        "seed": recipe.seed,
    }


def check(recipe: Recipe) -> None:
    """What can be known of the judge before any work. Raises UserError."""
    judge = _judge(recipe)
    prompts.load(judge.prompt, judging=True)
    generate.check(judge)


def judge_verdicts(job: Job, name: str, reads: str) -> list[Shard]:
    """The shards of the judge_verdicts on another stage's traces, in order; what is owed of them is asked first.

    Raises Stopped when some could not be had, UserError when the judge cannot be reached.
    """
    if execute(stage(name, reads), {reads: generate.GENERATE}, job.recipe, job.run_dir) != DONE:
        raise Stopped(f"{name} is unfinished; the same command goes on")
    return Output(job.run_dir / name, JudgeVerdict).shards()


def stage(name: str, reads: str) -> Stage:
    """The stage that asks the judge of another one's traces."""
    return Stage(
        name=name,
        version=1,
        row=JudgeVerdict,
        shards_from=reads,
        reads=(reads,),
        settings=settings,
        check=check,
        run=_run,
    )


def _judge(recipe: Recipe) -> Judge:
    assert recipe.judge is not None, "the recipe was checked"
    return recipe.judge


def _run(job: Job) -> dict[str, Any]:
    judge = _judge(job.recipe)
    owed = 0
    for traces, written in job.pairs():
        if not written.sealed:
            asked = sum(1 for _ in _asked(traces))
            owed += asked
            if not asked:  # no server has to be started for these
                written.write([])
    if owed:
        total = owed + sum(written.count().rows for _, written in job.pairs() if written.sealed)
        with generate.reach(judge, judge.model, "judge", None, job, table=judge) as reached:
            asyncio.run(_ask_all(job, judge, reached, total))
    return {}


async def _ask_all(job: Job, judge: Judge, reached: Server, total: int) -> None:
    async with generate.client_of(judge, reached, judge.concurrency) as client:
        await client.check(job.say)
        ledger = Ledger(job.output.folder, [UsageMeter(judge.model, judge, client.tally)])
        asker = _Asker(judge, client, ledger, job.recipe.seed)
        with job.progress(total) as progress:
            async with generate.reporting(progress, ledger, lambda: total):
                await work(
                    ((written, partial(_plan, traces, written)) for traces, written in job.pairs()),
                    asker.do,
                    asker.give_up,
                    slots={"": judge.concurrency},
                    accept=lambda: int(judge.max_failed_fraction * total),
                    progress=progress,
                    watch=reached.died,
                )


def _plan(traces: Shard, written: Shard) -> Plan:
    held = written.held()
    asked = dict(_asked(traces))
    units = [
        WorkItem(key, record, length=len(record["response"]), tried=key in held.failed)
        for key, record in asked.items()
        if key not in held.rows
    ]
    return Plan(written, list(asked), set(held.rows), units)


def _asked(traces: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each different text that is to be judged, by its key: the record of the first trace that says it."""
    seen: set[str] = set()
    for batch in traces.batches(leave_out=set(Trace.model_fields) - set(_READ)):
        for record in batch.to_pylist():
            question, reference, response = (record[name] for name in prompts.JUDGED)
            if is_judged(record["answer_type"], reference, response):
                key = opinion_id(question, reference, response)
                if key not in seen:
                    seen.add(key)
                    yield key, record


class _Asker:
    """Does one unit: asks for an opinion."""

    def __init__(self, judge: Judge, client: Client, ledger: Ledger, seed: int) -> None:
        self._judge, self._client, self._ledger, self._seed = judge, client, ledger, seed
        self._prompt = prompts.load(judge.prompt, judging=True)
        self._sampling = Sampling(
            temperature=judge.temperature, top_p=judge.top_p, max_tokens=judge.max_tokens
        )

    async def do(self, unit: WorkItem) -> JudgeVerdict:
        messages = self._prompt.fill({name: unit.args[name] for name in prompts.JUDGED})
        seed = sampling_seed(unit.key, 0, self._seed)
        said = await self._client.complete(messages, self._sampling, seed)
        self._ledger.meters[0].add(said)
        outcome, reason = read_verdict(said.response, said.finish_reason)
        self._ledger.outcomes[_AS_OUTCOME[outcome]] += 1
        return self.give_up(unit, None).model_copy(
            update={
                "outcome": outcome,
                "reason": reason,
                "reasoning": said.reasoning,
                "answer": said.response,
                "finish_reason": said.finish_reason,
                "prompt_tokens": said.prompt_tokens,
                "completion_tokens": said.completion_tokens,
            }
        )

    def give_up(self, unit: WorkItem, error: str | None) -> JudgeVerdict:
        """The row of a unit that has no answer."""
        return JudgeVerdict(
            id=unit.key,
            trace_id=unit.args["id"],
            model=self._judge.model,
            prompt_hash=self._prompt.hash,
            outcome="undecided",
            reason=FAILED,
            reasoning=None,
            answer="",
            finish_reason="failed",
            prompt_tokens=None,
            completion_tokens=None,
            error=error,
        )
