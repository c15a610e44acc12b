"""select: turns kept traces into training examples, at most `per_problem` for a problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import prompts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.filter.stage import FILTER
from pipeline.generate.stage import GENERATE
from pipeline.rows import Example, ExampleKind
from pipeline.select import chat_data, mix, pairs
from pipeline.select.choices import examples_of, prepare
from pipeline.select.choose import NEED_SCORES
from pipeline.select.marks import MARKS, OTHER_TEXT, marks_hash

# Why a kept trace is not an example: key in the report -> words for people.
LEFT_OUT = {
    "marks": "left out by select.marks",
    "without_reasoning": "without reasoning",
    "without_answer": "without an answer",
    "same_text": "of the same text as another",
    "over_per_problem": "over select.per_problem",
    "near_identical": "nearly identical to another",
    "over_share": "over the share of their length",
    "student_pass_rate": "outside select.student_pass_rate",
    "over_max_examples": "over select.max_examples",
}


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Writes the examples of each shard, and in its counts what became of the kept traces.

    kept = reasoning + plain + each of LEFT_OUT; train + validation = reasoning + plain + chat.
    """
    for shard in shards:
        counts: Counter[str] = Counter()
        rows = list(examples_of(job, shard, job.prepared, counts))
        rows += mix.chat_examples(job.prepared.chats, shard, len(rows), job.recipe, counts)
        counts.update(row.split for row in rows)
        counts.update(row.kind for row in rows)
        shard.write((row.model_dump() for row in rows), counts)


def report(job: Job) -> dict[str, Any]:
    """The counts of all shards. Raises UserError if there is nothing to train on."""
    counts = job.output.report()
    names = ("kept", *LEFT_OUT, *get_args(ExampleKind), "train", "validation", "reasoning_not_taught")
    report: dict[str, Any] = {name: counts[name] for name in names}
    report |= mix.report(job.prepared.chats, job.recipe.select, counts)
    report |= pairs.report(job.recipe.select, counts)
    if job.recipe.select.marks:
        report[OTHER_TEXT] = counts[OTHER_TEXT]
        if counts[OTHER_TEXT]:
            job.say(f"select: {counts[OTHER_TEXT]} marks do not count: their traces had another text")
    if not report["train"]:
        raise UserError(f"no example to train on: {_why_none(report, job.recipe.run)}")
    return report


def _why_none(report: Mapping[str, int], run: str) -> str:
    if not report["kept"]:
        return f"no trace was kept; `retort why {run}` shows what rejected them"
    if report["validation"]:
        return f"all {report['validation']} examples are held back by select.validation: lower it"
    reasons = ", ".join(f"{report[name]} {words}" for name, words in LEFT_OUT.items() if report[name])
    hint = '; select.reasoning = "none" teaches the response alone' if report["without_reasoning"] else ""
    return f"of {report['kept']} kept traces {reasons}{hint}"


def _check(recipe: Recipe) -> None:
    prompts.load(recipe.select.prompt)
    if recipe.select.prefer == "confident":
        recipe.check_logprobs("select.prefer = 'confident'")
    if recipe.select.prefer in NEED_SCORES and recipe.score is None:
        raise UserError(f"select.prefer = '{recipe.select.prefer}' needs a table [score]")
    if recipe.select.prefer == "natural" and recipe.score is not None and not recipe.score.local:
        raise UserError("select.prefer = 'natural' needs score.local = true")
    if recipe.select.student_pass_rate and not (recipe.score and recipe.score.student_samples):
        raise UserError("select.student_pass_rate needs score.student_samples = 1 or more")
    for chats in recipe.select.chats:
        chat_data.check(chats)
    if (given := recipe.select.marks) and not Path(given.path).is_file():
        raise UserError(f"select.marks: {given.path}: no such file; `retort view RUN` writes RUN/{MARKS}")


def _settings(recipe: Recipe) -> dict[str, Any]:
    chats = [chat_data.fingerprint(chats) for chats in recipe.select.chats]
    marks = recipe.select.marks
    # Chat data is compared with the evaluation sets, which filter names
    contamination = recipe.filter.contamination if chats else None
    return {
        **identity(recipe.select),
        "prompt": prompts.load(recipe.select.prompt).text,
        "seed": recipe.seed,
        "chats": chats,
        "contamination": contamination and identity(contamination),
        **({"marks": {"use": marks.use, "hash": marks_hash(Path(marks.path))}} if marks else {}),
    }


SELECT = Stage(
    name="select",
    version=7,  # 7: pairs follow filter.ignored
    row=Example,
    reads=(GENERATE, FILTER),
    shards_from="filter",
    settings=_settings,
    check=_check,
    prepare=prepare,
    work=work,
    report=report,
    free=True,
)
