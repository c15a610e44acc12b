"""labels: the teacher reads the selected examples once, for topk_kd. A stage nested in train.

A subprocess tokenizes the examples as they are trained on (trainer/label_tokens.py). The teacher gets these
very tokens, so its labels need no alignment. It is asked as in generate: a row is on disk before it counts,
and the same command asks for what is missing.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import prompts
from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint, Teacher
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.earlier_rows import take_over_by_id
from pipeline.engine.execute import complete
from pipeline.engine.manifest import Manifest, other_settings
from pipeline.engine.scheduler import Plan, WorkItem
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.generate.asking import ask
from pipeline.generate.stage import GENERATE
from pipeline.generate.usage import UsageLog, UsageMeter
from pipeline.inference import endpoint, fingerprint, model_files
from pipeline.inference.client import Client
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.prompt_logprobs import check_texts
from pipeline.rows import SoftLabels
from pipeline.select.stage import SELECT
from pipeline.train.job import LabelJob
from pipeline.train.objectives import OBJECTIVES

MAX_LENGTH = "max_length"


@dataclass(frozen=True)
class Text:
    """An example in tokens."""

    id: str
    context: np.ndarray  # int32: the prompt
    answer: np.ndarray  # int32: the tokens with loss
    texts: list[str] | None  # of the answer's tokens; only of one example of a shard

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.context.tobytes() + b"|" + self.answer.tobytes()).hexdigest()[:32]


def reader(recipe: Recipe) -> Endpoint:
    """The model that reads the examples. Raises UserError where the recipe does not name one."""
    if named := recipe.train.topk_kd.teacher:
        return named
    asked = [teacher for teacher in recipe.teacher if not teacher.by_files]
    if len(asked) == 1:
        return asked[0]
    have = f"has {len(asked)}" if asked else "has none"
    raise UserError(
        f"train.objective = 'topk_kd' needs a teacher that reads the examples, and the recipe {have}: "
        "add a table [train.topk_kd.teacher]"
    )


def wanted(recipe: Recipe) -> bool:
    return OBJECTIVES[recipe.train.objective].soft_labels


def stages(recipe: Recipe, run_dir: Path) -> tuple[Stage, ...]:
    """The stage, where the recipe's objective needs it."""
    return (LABELS,) if wanted(recipe) else ()


def prepare(job: Job) -> Output | None:
    """Completes the labels of a training that needs them."""
    return complete(LABELS, job) if wanted(job.recipe) else None


def check(recipe: Recipe) -> None:
    """Raises UserError for mistakes that can be found before any work."""
    if not wanted(recipe):
        return
    endpoint.check(reader(recipe))
    if recipe.train.topk_kd.prompt == "teacher" and recipe.generate.prompt is None:
        raise UserError("train.topk_kd.prompt = 'teacher' needs generate.prompt")


def settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that changes the labels of given examples."""
    table, teacher = recipe.train.topk_kd, reader(recipe)
    assert recipe.student is not None, "checked by train"
    # In a chain the name alone tells one training of a student in the same folder from the next
    name = recipe.parent and isinstance(teacher, Teacher) and teacher.name
    prompt = prompts.load(recipe.generate.prompt or "").text if table.prompt == "teacher" else None
    return {
        "teacher": fingerprint.model_settings(name or teacher.model, teacher),
        "top_k": table.top_k,
        MAX_LENGTH: recipe.train.max_length,
        "prompt": prompt,
        "student": recipe.student.model,  # its tokenizer and chat template
        **model_files.content(recipe.student.model),
    }


def _prepare(job: Job) -> Text | None:
    """Tokenizes the examples, then takes over the labels of the same tokens from earlier results.

    Returns an example to try the teacher with; None if no shard is open.
    """
    _tokenize(job)
    take_over_by_id(
        job,
        lambda shard: {text.id: text.digest for text in _texts(job, shard)},
        lambda row, digest: row if row.digest == digest else None,
    )
    texts = (text for shard in job.share() if not shard.sealed for text in _texts(job, shard))
    return next((text for text in texts if text.texts), None)


def _tokenize(job: Job) -> None:
    """Writes the tokens of each open shard into the cache. Raises UserError."""
    recipe, cache = job.recipe, job.output.folder / "cache"
    assert recipe.student is not None
    open_shards = [shard for shard in job.share() if not shard.sealed]
    label_job = LabelJob(
        model=model_files.resolve(recipe.student.model, job.say),
        prompt=recipe.generate.prompt if recipe.train.topk_kd.prompt == "teacher" else None,
        examples=tuple(job.input_shard(shard).path.absolute() for shard in open_shards),
        traces=GENERATE.output(job.run_dir).folder.absolute(),
        max_length=recipe.train.max_length,
        cache=cache.absolute(),
    )
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    write_atomic(label_job.file, label_job.model_dump_json(indent=2).encode() + b"\n")
    command = [sys.executable, "-P", "-m", "pipeline.train.trainer.label_tokens", str(label_job.file)]
    with Child(command, job.logs / "labels.log", model_files.environment(label_job.model)) as child:
        code = child.wait()
        label_job.check_refusal()
        if code:
            raise Stopped(f"the examples were not tokenized; the last lines of the log:\n{child.log_tail()}")


def _texts(job: Job, shard: Shard) -> list[Text]:
    import pyarrow.parquet as pq

    table = pq.read_table(job.output.folder / "cache" / f"{shard.name}.parquet")
    ids, texts = table["id"].to_pylist(), table["texts"].to_pylist()
    tokens = ([each.values.to_numpy() for each in table[name]] for name in ("context", "answer"))
    return [Text(*columns) for columns in zip(ids, *tokens, texts, strict=True)]


def _work(job: Job, shards: Iterable[Shard]) -> None:
    teacher, k = reader(job.recipe), job.recipe.train.topk_kd.top_k

    async def start(client: Client, usage: UsageLog) -> _Worker:
        worker = _Worker(client, usage.meters[0], k)
        if job.prepared is not None:
            await worker.check(job.prepared, job)
        return worker

    ask(job, shards, partial(_plan, job), teacher, job.recipe.generate, start, name="labels", logprobs=k)


def _plan(job: Job, shard: Shard) -> Plan:
    texts, journal = _texts(job, shard), shard.read_journal()
    items = [
        WorkItem(
            text.id,
            text,
            length=len(text.context) + len(text.answer),
            failed_before=text.id in journal.failed,
        )
        for text in texts
        if text.id not in journal.rows
    ]
    return Plan(shard, [text.id for text in texts], set(journal.rows), items)


class _Worker:
    """Processes work items: has an example read."""

    def __init__(self, client: Client, meter: UsageMeter, k: int) -> None:
        self._client, self._meter, self._k = client, meter, k

    async def check(self, text: Text, job: Job) -> None:
        """Has one example read before all are paid for. Raises UserError where the teacher is of no use."""
        try:
            completion = await self._ask(text)
        except (RequestFailed, UserError) as e:
            raise UserError(f"topk_kd: {e}; prompt_logprobs on /v1/completions are needed") from None
        found = completion.prompt_logprobs
        assert found
        assert text.texts is not None
        if not check_texts("topk_kd", text.answer.tolist(), text.texts, found.texts):
            job.say("labels: cannot verify that the teacher has the student's tokenizer")

    async def process(self, item: WorkItem) -> SoftLabels:
        completion = await self._ask(item.payload)
        found = completion.prompt_logprobs
        assert found
        return self._row(
            item.payload,
            tokens=item.payload.answer.tolist(),
            logprobs=found.logprobs,
            top_tokens=found.top_tokens,
            top_logprobs=found.top_logprobs,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
        )

    def fallback_row(self, item: WorkItem, error: str) -> SoftLabels:
        empty: dict[str, Any] = dict.fromkeys(("tokens", "logprobs", "top_tokens", "top_logprobs"), ())
        return self._row(item.payload, **empty, prompt_tokens=None, completion_tokens=None, error=error)

    async def _ask(self, text: Text) -> Any:
        tokens = np.concatenate([text.context, text.answer]).tolist()
        completion = await self._client.read(tokens, len(text.answer), self._k)
        self._meter.add(completion)
        return completion

    def _row(self, text: Text, **fields: Any) -> SoftLabels:
        return SoftLabels(id=text.id, digest=text.digest, k=self._k, **fields)


def report(job: Job) -> dict[str, Any]:
    shutil.rmtree(job.output.folder / "cache")
    return {}


def _contradiction(found: Manifest, wanted: Manifest) -> str:
    """Another maximum length adds examples or leaves some out; the labels of the others stay valid."""
    before, now = (m.model_copy(update={"settings": m.settings | {MAX_LENGTH: 0}}) for m in (found, wanted))
    return other_settings(before, now)


LABELS = Stage(
    name="train/labels",
    version=1,
    row=SoftLabels,
    reads=(SELECT,),
    shards_from="select",
    settings=settings,
    check=check,
    prepare=_prepare,
    work=_work,
    report=report,
    asks_models=True,
    contradiction=_contradiction,
)
