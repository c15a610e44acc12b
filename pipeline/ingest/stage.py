"""The ingest stage: reads all sources, keeps each question once, splits train from held-out, writes shards.

Held-out sources are read first, so a question that a training source repeats stays held out. Evaluation reads
its sets with `write_problems`, `settings` and `check` too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.sources import GymSource, Ingest, Source
from pipeline.engine.progress import Progress
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.files import BadRow
from pipeline.rows import Problem

COUNTED = ("read", "problems", "train", "held_out", "without_answer", "duplicates", "conflicting", "bad_rows")
MAX_PRINTED = 20  # bad rows, and conflicts, on stderr
MAX_REPORTED = 1000  # in the report


def write_problems(table: Ingest, job: Job) -> dict[str, Any]:
    """Writes the problems of the table's sources, and returns a report of counts.

    read = problems + duplicates + conflicting + bad_rows. Reading is cheap, and a source on the hub may have
    changed, so an interrupted run starts over.
    """
    for shard in job.output.shards():
        shard.path.unlink(missing_ok=True)
    with Progress(job.stage.name, None) as progress:
        counts = _IngestCounts(job.stage.name, job.say, progress)
        problems = _problems(table, job.recipe.seed, counts)
        number = 0
        while rows := list(islice(problems, table.shard_size)):
            job.output.write(f"shard-{number:05d}", rows)
            number += 1
    return counts.report()


def _problems(table: Ingest, seed: int, counts: _IngestCounts) -> Iterator[Problem]:
    """Yields the first row of each question, and counts the others."""
    seen: dict[int, int | None] = {}  # id -> hash of the reference; small, as all problems are in it
    for source in sorted(table.sources, key=lambda source: source.split != "held_out"):
        counts.begin(source)
        for row in sources.read(source, table.held_out, seed):
            if isinstance(row, BadRow):
                counts.bad_row(row)
                continue
            key, reference = int(row.id, 16), _reference_hash(row)
            if key not in seen:
                seen[key] = reference
                counts.problem(row)
                yield row
            elif reference is None or seen[key] in (None, reference):
                counts.count("duplicates")
            else:
                counts.conflict(row)
        counts.end(source)


def _reference_hash(problem: Problem) -> int | None:
    if problem.reference is None:
        return None
    text = " ".join(problem.reference.split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


class _IngestCounts:
    """Counts rows by source. Prints the first bad rows and conflicts, and keeps more for the report."""

    def __init__(self, stage: str, say: Callable[[str], None], progress: Progress) -> None:
        self.stage, self.say, self.progress = stage, say, progress
        self.by_source: dict[str, dict[str, int]] = {}
        self.listed: dict[str, list[str]] = {"bad_rows": [], "conflicting": []}

    def begin(self, source: Source) -> None:
        self.current = self.by_source[sources.name_of(source)] = dict.fromkeys(COUNTED, 0)
        self.first_bad: str | None = None

    def count(self, what: str) -> None:
        self.current["read"] += 1
        self.current[what] += 1
        self.progress.update(done=1)

    def problem(self, problem: Problem) -> None:
        self.count("problems")
        self.current[problem.split] += 1
        self.current["without_answer"] += problem.reference is None

    def bad_row(self, row: BadRow) -> None:
        line = f"{row.origin}: {row.why}"
        self.first_bad = self.first_bad or line
        self._list("bad_rows", line)

    def conflict(self, problem: Problem) -> None:
        line = f"{problem.origin}: left out, its question came before with another answer"
        self._list("conflicting", line)

    def _list(self, what: str, line: str) -> None:
        self.count(what)
        lines = self.listed[what]
        if len(lines) < MAX_PRINTED:
            self.say(line)
        if len(lines) < MAX_REPORTED:
            lines.append(line)

    def end(self, source: Source) -> None:
        """Raises UserError if the source has no problem, or none of them the answer that it promised."""
        name, counts = sources.name_of(source), self.current
        if counts["bad_rows"] == counts["read"]:
            first = f"; the first: {self.first_bad}" if self.first_bad else ""
            raise UserError(f"source {name!r}: none of its {counts['read']} rows is a problem{first}")
        column = None if isinstance(source, GymSource) else source.reference
        if column and counts["problems"] and counts["without_answer"] == counts["problems"]:
            raise UserError(
                f"source {name!r}: no row has an answer in column {column!r}; "
                'if no answers are known, say so with reference = ""'
            )

    def report(self) -> dict[str, Any]:
        total = {what: sum(counts[what] for counts in self.by_source.values()) for what in COUNTED}
        summary = ", ".join(f"{total[what]} {what.replace('_', ' ')}" for what in COUNTED)
        self.say(f"{self.stage}: {summary}")
        bad, conflicts = self.listed["bad_rows"], self.listed["conflicting"]
        return {**total, "by_source": self.by_source, "bad": bad, "conflicts": conflicts}


def settings(table: Ingest, recipe: Recipe) -> dict[str, Any]:
    """Returns everything that determines the problems: table, current content of the sources, seed."""
    content = [sources.fingerprint(source) for source in table.sources]
    return {**identity(table), "seed": recipe.seed, "content": content}


def check(where: str, given: Sequence[Source]) -> None:
    """Raises UserError for mistakes found before any work. `where`: the sources' place in the recipe."""
    names = [sources.name_of(source) for source in given]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: two are called {name!r}; give one another name: name = ...")
    for source in given:
        sources.check(source)


def report(job: Job) -> dict[str, Any]:
    """The counts that `write_problems` returned."""
    counts: dict[str, Any] = job.prepared
    return counts


def _settings(recipe: Recipe) -> dict[str, Any]:
    return settings(recipe.ingest, recipe)


def _check(recipe: Recipe) -> None:
    check("ingest.sources", recipe.ingest.sources)


def _prepare(job: Job) -> dict[str, Any]:
    return write_problems(job.recipe.ingest, job)


INGEST = Stage(
    name="ingest",
    version=1,
    row=Problem,
    settings=_settings,
    check=_check,
    prepare=_prepare,
    report=report,
    free=True,
)
