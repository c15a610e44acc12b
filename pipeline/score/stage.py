"""score: the untrained student reads every kept trace once, in the format in which select would teach it.

Runs trainer/score.py in a subprocess, which holds the model; this file starts it, follows it, and seals each
shard as soon as it is read. Each trace gets a TraceScore. select can then prefer what suits the student, and
`retort teachers` ranks the teachers before anything is trained.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import prompts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.score import Scoring
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.execute import complete
from pipeline.engine.progress import Progress
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.filter.stage import FILTER
from pipeline.generate.stage import GENERATE
from pipeline.hardware import computes_bf16
from pipeline.inference import model_files
from pipeline.inference.pruning import Pruning, pruning_of
from pipeline.rows import TraceScore
from pipeline.score import attempts
from pipeline.score.job import ScoreJob, ShardScores

POLL_SECONDS = 0.2
COUNTS = ("kept", "scored", "too_long", "without_reasoning", "without_answer")


def scoring(recipe: Recipe) -> Scoring:
    """The table [score]. Raises UserError where the recipe has none."""
    if recipe.score is None:
        raise UserError("score needs a table [score] in the recipe; an empty one is enough")
    return recipe.score


def model_of(recipe: Recipe) -> tuple[str, Pruning | None]:
    """The model that reads, and how it is pruned. Raises UserError for none."""
    table = scoring(recipe)
    if table.model is not None:
        return table.model, None
    if recipe.student is None:
        raise UserError("score needs a model: set score.model, or add a table [student]")
    pruning = pruning_of(recipe.student)
    if pruning and pruning.measured:
        raise UserError(
            f"score comes before the examples on which pruning to {pruning.words} is measured: set "
            "score.model, such as to the whole model"
        )
    return recipe.student.model, pruning


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Lets the process read the shards and seals each of them."""
    open_shards = list(shards)
    cache = job.output.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    score_job = _score_job(job, open_shards, cache)
    write_atomic(score_job.file, score_job.model_dump_json(indent=2).encode() + b"\n")
    kept = sum(job.input_shard(shard).column("outcome").count("kept") for shard in open_shards)
    log = job.logs / "score.log"
    job.say(f"score: {score_job.model} reads {kept} kept traces (log: {log})")
    command = [sys.executable, "-P", "-m", "pipeline.train.trainer.score", str(score_job.file)]
    with (
        Progress("score", kept) as progress,
        Child(command, log, model_files.environment(score_job.model)) as child,
    ):
        for shard in open_shards:
            found = _wait(child, score_job, shard.name)
            shard.write(_rows(found, job.prepared, shard.name), found.counts)
            progress.update(done=found.counts.get("kept", 0))
    shutil.rmtree(cache)


def prepare(job: Job) -> Output | None:
    """Samples and grades the student on the training problems, if the recipe wants its pass rates."""
    outputs = [complete(stage, job) for stage in attempts.stages(job.recipe, job.run_dir)]
    return outputs[-1] if outputs else None


def _rows(found: ShardScores, graded: Output | None, shard: str) -> Iterator[dict[str, Any]]:
    """The rows, each with the student's pass rate for its problem where it was sampled."""
    rates = attempts.pass_rates(graded.shard(shard)) if graded else {}
    for row in found.rows:
        yield row.model_dump() | {"student_pass_rate": rates.get(row.problem_id)}


def _score_job(job: Job, shards: list[Shard], cache: Path) -> ScoreJob:
    recipe, table = job.recipe, scoring(job.recipe)
    model, pruning = model_of(recipe)
    return ScoreJob(
        model=model_files.resolve(model, job.say, pruning),
        bf16=computes_bf16() if table.precision == "auto" else table.precision == "bf16",
        settings=table,
        reasoning=recipe.select.reasoning,
        prompt=recipe.select.prompt,
        traces=job.inputs["generate"].folder,
        verdicts=job.inputs["filter"].folder,
        shards=tuple(shard.name for shard in shards),
        cache=cache,
    )


def _wait(child: Child, job: ScoreJob, shard: str) -> ShardScores:
    """Waits for the scores of a shard. Raises UserError or Stopped when the process ends without them."""
    path = job.scores(shard)
    while not path.exists():
        ended = child.poll() is not None
        if ended and not path.exists():  # it may have been written just before the end
            job.check_refusal()
            raise Stopped(
                f"the reading of traces ended early; the last lines of the log:\n{child.log_tail()}"
            )
        if not ended:
            time.sleep(POLL_SECONDS)
    return ShardScores.model_validate_json(path.read_bytes())


def report(job: Job) -> dict[str, Any]:
    """What became of the kept traces: kept = scored + the others; and how often the student is correct."""
    counts = job.output.report()
    report: dict[str, Any] = {name: counts[name] for name in COUNTS}
    if attempts.wanted(job.recipe):
        known = [rate for rate in attempts.all_pass_rates(job.run_dir) if rate is not None]
        mean = sum(known) / len(known) if known else None
        report["student"] = {"problems": len(known), "pass_rate": mean}
    return report


def check(recipe: Recipe) -> None:
    """Checks everything that can be known before any work. Raises UserError."""
    model, pruning = model_of(recipe)
    model_files.check_libraries("score", ("torch", "transformers"))
    prompts.load(recipe.select.prompt)
    model_files.check(model, pruning)
    if attempts.wanted(recipe):
        attempts.check(recipe)


def _settings(recipe: Recipe) -> dict[str, Any]:
    model, pruning = model_of(recipe)
    return {
        **identity(scoring(recipe)),
        "model": model,
        **model_files.content(model),
        "layers": pruning.layers if pruning else None,
        "reasoning": recipe.select.reasoning,
        "prompt": prompts.load(recipe.select.prompt).text,
        **(attempts.settings(recipe) if attempts.wanted(recipe) else {}),
    }


SCORE = Stage(
    name="score",
    version=2,  # 2: the student attempts problems with given traces too
    row=TraceScore,
    reads=(GENERATE, FILTER),
    shards_from="filter",
    settings=_settings,
    check=check,
    prepare=prepare,
    work=work,
    report=report,
    one_worker=True,
    free=True,
    substages=attempts.stages,
)
