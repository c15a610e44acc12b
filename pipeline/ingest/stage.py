"""ingest: problems out of every source, each question once, split into train and held-out, into shards.

Sources that are held out as a whole are read first: a question that a training source has too stays held out.
Evaluation reads its sets the same way: `run`, `settings` and `check` serve both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from pipeline.config.base import identity
from pipeline.config.sources import GymSource, Ingest, Source
from pipeline.engine.progress import Progress
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.files import BadRow
from pipeline.rows import Problem

COUNTED = ("read", "problems", "train", "held_out", "without_answer", "duplicates", "conflicting", "bad_rows")
NAMED = 20  # lines about bad rows, and about conflicts, on stderr
KEPT = 1000  # in the report


def run(job: Job, table: Ingest) -> dict[str, Any]:
    """Write the problems of the table's sources.

    The report adds up: read = problems + duplicates + conflicting + bad_rows.

    Reading is cheap, so an interrupted try is begun anew; a source on the hub may have changed since.
    """
    for left_over in job.output.shards():
        left_over.path.unlink(missing_ok=True)
    with Progress(job.stage.name, None) as progress:
        tally = _Tally(job.stage.name, job.say, progress)
        problems = _problems(table, job.recipe.seed, tally)
        number = 0
        while shard := list(islice(problems, table.shard_size)):
            job.output.write(f"shard-{number:05d}", shard)
            number += 1
    return tally.report()


def _problems(table: Ingest, seed: int, tally: _Tally) -> Iterator[Problem]:
    """Each question once, the first that is met; what is left out is told to the tally."""
    seen: dict[int, int | None] = {}  # id -> hash of the reference; all that is held of a problem
    for source in sorted(table.sources, key=lambda source: source.split != "held_out"):
        tally.begin(source)
        for row in sources.read(source, table.held_out, seed):
            if isinstance(row, BadRow):
                tally.bad(row)
                continue
            key, reference = int(row.id, 16), _reference_hash(row)
            if key not in seen:
                seen[key] = reference
                tally.problem(row)
                yield row
            elif reference is None or seen[key] in (None, reference):
                tally.count("duplicates")
            else:
                tally.conflict(row)
        tally.end(source)


def _reference_hash(problem: Problem) -> int | None:
    if problem.reference is None:
        return None
    text = " ".join(problem.reference.split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


class _Tally:
    """Counts by source, and names bad rows and conflicts: a few at once, more of them in the report."""

    def __init__(self, stage: str, say: Callable[[str], None], progress: Progress) -> None:
        self.stage, self.say, self.progress = stage, say, progress
        self.by_source: dict[str, dict[str, int]] = {}
        self.named: dict[str, list[str]] = {"bad_rows": [], "conflicting": []}

    def begin(self, source: Source) -> None:
        self.now = self.by_source[sources.name_of(source)] = dict.fromkeys(COUNTED, 0)
        self.first_bad: str | None = None

    def count(self, what: str) -> None:
        self.now["read"] += 1
        self.now[what] += 1
        self.progress.update(done=1)

    def problem(self, problem: Problem) -> None:
        self.count("problems")
        self.now[problem.split] += 1
        self.now["without_answer"] += problem.reference is None

    def bad(self, row: BadRow) -> None:
        self.first_bad = self.first_bad or f"{row.origin}: {row.why}"
        self._name("bad_rows", f"{row.origin}: {row.why}")

    def conflict(self, problem: Problem) -> None:
        self._name("conflicting", f"{problem.origin}: left out, its question came before with another answer")

    def _name(self, what: str, line: str) -> None:
        self.count(what)
        lines = self.named[what]
        if len(lines) < NAMED:
            self.say(line)
        if len(lines) < KEPT:
            lines.append(line)

    def end(self, source: Source) -> None:
        """Refuse a source that gave nothing to work with. Raises UserError."""
        name, now = sources.name_of(source), self.now
        if now["bad_rows"] == now["read"]:
            first = f"; the first: {self.first_bad}" if self.first_bad else ""
            raise UserError(f"source {name!r}: none of its {now['read']} rows is a problem{first}")
        column = None if isinstance(source, GymSource) else source.reference
        if column and now["problems"] and now["without_answer"] == now["problems"]:
            raise UserError(
                f"source {name!r}: no row has an answer in column {column!r}; "
                'if no answers are known, say so with reference = ""'
            )

    def report(self) -> dict[str, Any]:
        total = {what: sum(counts[what] for counts in self.by_source.values()) for what in COUNTED}
        said = ", ".join(f"{total[what]} {what.replace('_', ' ')}" for what in COUNTED)
        self.say(f"{self.stage}: {said}")
        bad, conflicts = self.named["bad_rows"], self.named["conflicting"]
        return {**total, "by_source": self.by_source, "bad": bad, "conflicts": conflicts}


def settings(table: Ingest, seed: int) -> dict[str, Any]:
    """All that changes the problems: the table, what its sources hold now, the seed of the split."""
    content = [sources.fingerprint(source) for source in table.sources]
    return {**identity(table), "seed": seed, "content": content}


def check(where: str, given: Sequence[Source]) -> None:
    """What can be known of sources before any work; `where` they stand in the recipe. Raises UserError."""
    names = [sources.name_of(source) for source in given]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: two are called {name!r}; give one another name: name = ...")
    for source in given:
        sources.check(source)


INGEST = Stage(
    name="ingest",
    version=1,
    row=Problem,
    shards_from=None,
    reads=(),
    settings=lambda recipe: settings(recipe.ingest, recipe.seed),
    check=lambda recipe: check("ingest.sources", recipe.ingest.sources),
    run=lambda job: run(job, job.recipe.ingest),
    tables=("ingest", "seed"),
)
