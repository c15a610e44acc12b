"""judge: asks a model whether free-text answers are correct. A stage nested in filter, in its own folder.

The judge is requested like the teacher: a verdict is on disk before it counts, and the same command retries
failed requests. Equal texts in a shard are judged once. `judge_verdict.py` reads the verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import prompts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.endpoints import Judge
from pipeline.engine.earlier_rows import take_over_by_id
from pipeline.engine.manifest import other_settings
from pipeline.engine.scheduler import Plan, WorkItem
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.filter.judge_verdict import JUDGE_FAILED, needs_judge, read_verdict, verdict_key
from pipeline.generate.asking import ask
from pipeline.generate.sample_plan import sampling_seed
from pipeline.generate.sampler import EMPTY_COMPLETION
from pipeline.generate.usage import UsageLog
from pipeline.inference import endpoint, fingerprint
from pipeline.inference.client import Client
from pipeline.inference.response import Completion
from pipeline.rows import FilterOutcome, JudgeVerdict, Outcome, Sampling

_FIELDS = ("id", "question", "reference", "response", "answer_type")  # of a trace
_AS_OUTCOME: dict[FilterOutcome, Outcome] = {"passed": "kept", "failed": "rejected", "undecided": "undecided"}


def settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that changes the verdicts: model, prompt, sampling."""
    judge = _judge(recipe)
    prompt = prompts.load(judge.prompt, judging=True)
    return {
        **identity(judge),
        **fingerprint.local_files(judge),
        "weights": fingerprint.output_affecting_args(judge),
        **fingerprint.omitted_fields(judge),
        "prompt": {"name": prompt.name, "text": prompt.text},
        "seed": recipe.seed,
    }


def check(recipe: Recipe) -> None:
    """Raises UserError for mistakes that can be found before any work."""
    judge = _judge(recipe)
    prompts.load(judge.prompt, judging=True)
    endpoint.check(judge)


def judge_stage(name: str, reads: Stage) -> Stage:
    """The stage that judges the traces of the stage `reads`."""
    return Stage(
        name=name,
        version=3,
        row=JudgeVerdict,
        reads=(reads,),
        shards_from=reads.name,
        settings=settings,
        check=check,
        prepare=_prepare,
        work=_work,
        asks_models=True,
        contradiction=other_settings,
    )


def _judge(recipe: Recipe) -> Judge:
    assert recipe.judge is not None, "checked by the recipe"
    return recipe.judge


def _prepare(job: Job) -> None:
    """Copies the verdicts of this judge on the same texts from earlier results into the open journals."""
    take_over_by_id(
        job,
        lambda verdicts: dict(_texts_to_judge(job.input_shard(verdicts))),
        lambda verdict, record: verdict.model_copy(update={"trace_id": record["id"]}),
    )


def _work(job: Job, shards: Iterable[Shard]) -> None:
    """Judges the texts that the shards lack; with --partial seals them as they are."""
    if job.options.partial:
        for verdicts in shards:
            _plan(job, verdicts).seal()
        return
    judge = _judge(job.recipe)

    async def start(client: Client, usage: UsageLog) -> _Worker:
        return _Worker(judge, client, usage, job.recipe.seed)

    ask(job, shards, partial(_plan, job), judge, judge, start, name="judge")


def _plan(job: Job, verdicts: Shard) -> Plan:
    records = dict(_texts_to_judge(job.input_shard(verdicts)))
    journal = verdicts.read_journal()
    items = [
        WorkItem(key, record, length=len(record["response"]), failed_before=key in journal.failed)
        for key, record in records.items()
        if key not in journal.rows
    ]
    return Plan(verdicts, list(records), set(journal.rows), items)


def _texts_to_judge(traces: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each distinct text by its key, with the record of the first trace that has it."""
    seen: set[str] = set()
    for record in traces.records(_FIELDS):
        question, reference, response = (record[name] for name in prompts.JUDGE_FIELDS)
        if needs_judge(record["answer_type"], reference, response):
            key = verdict_key(question, reference, response)
            if key not in seen:
                seen.add(key)
                yield key, record


class _Worker:
    """Processes work items: requests a verdict."""

    def __init__(self, judge: Judge, client: Client, usage: UsageLog, seed: int) -> None:
        self._judge, self._client, self._usage, self._seed = judge, client, usage, seed
        self._prompt = prompts.load(judge.prompt, judging=True)
        self._sampling = Sampling(
            temperature=judge.temperature, top_p=judge.top_p, max_tokens=judge.max_tokens
        )

    async def process(self, item: WorkItem) -> JudgeVerdict:
        messages = self._prompt.fill({name: item.payload[name] for name in prompts.JUDGE_FIELDS})
        seed = sampling_seed(item.key, 0, self._seed)
        completion = await self._client.complete(messages, self._sampling, seed)
        self._usage.meters[0].add(completion)
        outcome, reason = read_verdict(completion.response, completion.finish_reason)
        self._usage.outcomes[_AS_OUTCOME[outcome]] += 1
        return self._row(item, completion, outcome, reason)

    def fallback_row(self, item: WorkItem, error: str) -> JudgeVerdict:
        return self._row(item, EMPTY_COMPLETION, "undecided", JUDGE_FAILED, error)

    def _row(
        self,
        item: WorkItem,
        completion: Completion,
        outcome: FilterOutcome,
        reason: str,
        error: str | None = None,
    ) -> JudgeVerdict:
        return JudgeVerdict(
            id=item.key,
            trace_id=item.payload["id"],
            model=self._judge.model,
            prompt_hash=self._prompt.hash,
            outcome=outcome,
            reason=reason,
            reasoning=completion.reasoning,
            answer=completion.response,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            error=error,
        )
