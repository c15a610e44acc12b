"""The ingest stage: reads all sources, keeps each question once, splits train from held-out, writes shards.

Held-out sources are read first, so a question that a training source repeats stays held out. Given traces are
sorted by the shard of their problem, for generate (`spool.py`). Evaluation reads its sets with
`write_problems`, `settings` and `check` too.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.ingest import Ingest, IngestSource, TracesSource
from pipeline.config.sources import GymSource
from pipeline.engine.progress import Progress
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.worker_pool import parallel_map
from pipeline.errors import UserError
from pipeline.ingest import sources, spool, traces
from pipeline.ingest.files import BadRow
from pipeline.ingest.traces import GivenRow
from pipeline.rows import Problem

COUNTED = ("read", "problems", "train", "held_out", "without_answer", "duplicates", "conflicting", "bad_rows")
COUNTED_OF_TRACES = (spool.KEPT, spool.HELD_OUT)
TRACE_SHARDS = "trace_shards"  # in the report: shard -> the number of its given traces
MAX_PRINTED = 20  # bad rows, and conflicts, on stderr; columns of a source
MAX_REPORTED = 1000  # in the report


def write_problems(table: Ingest, job: Job) -> dict[str, Any]:
    """Writes the problems of the table's sources, and returns a report of counts.

    read = problems + duplicates + conflicting + bad_rows; of a source of traces, whose rows are counted by
    sample, read = traces + held_out_traces + duplicates + conflicting + bad_rows. Reading is cheap, and a
    source on the hub may have changed, so an interrupted run starts over.
    """
    for shard in job.output.shards():
        shard.path.unlink(missing_ok=True)
    spool.remove(job.output.folder)
    with Progress(job.stage.name, None) as progress:
        counts = _IngestCounts(job.stage.name, job.say, progress)
        given = spool.Spool(job.output.folder / spool.FOLDER, table.shard_size)
        problems = _problems(table, job.recipe.seed, counts, given)
        number = 0
        while rows := list(islice(problems, table.shard_size)):
            job.output.write(spool.shard_name(number), rows)
            number += 1
    if counts.given:
        given.flush()
        _sort_traces(job, counts)
    return counts.report()


def _sort_traces(job: Job, counts: _IngestCounts) -> None:
    """Writes the given traces by shard, and counts them."""
    shards = job.output.shards()
    arguments = ((shard,) for shard in shards)
    for shard, found in zip(shards, parallel_map(_sort, None, arguments, counts.given), strict=True):
        counts.traces(shard.name, found)


def _sort(_: None, problems: Shard) -> dict[str, Counter[str]]:
    return spool.sort(problems)


def _problems(table: Ingest, seed: int, counts: _IngestCounts, given: spool.Spool) -> Iterator[Problem]:
    """Yields the first row of each question, and counts the others. Traces go to the spool."""
    known = _KnownProblems()
    for source in sorted(table.sources, key=lambda source: source.split != "held_out"):
        counts.begin(source)
        read = traces.read if isinstance(source, TracesSource) else sources.read
        for row in read(source, table.held_out, seed, counts.left_out):  # type: ignore[arg-type]
            if isinstance(row, BadRow):
                counts.bad_row(row)
            elif isinstance(row, GivenRow):
                yield from _given(row, known, counts, given)
            else:
                yield from _problem(row, known, counts)
        counts.end(source)


def _problem(problem: Problem, known: _KnownProblems, counts: _IngestCounts) -> Iterator[Problem]:
    """Yields the problem if its question is new."""
    if known.position(problem) is None:
        known.add(problem)
        counts.count("read")
        counts.problem(problem)
        yield problem
    elif known.agrees(problem):
        counts.count("read", "duplicates")
        counts.late_references[counts.name] += known.lacks_reference(problem)
    else:
        counts.conflict(problem)


def _given(
    row: GivenRow, known: _KnownProblems, counts: _IngestCounts, given: spool.Spool
) -> Iterator[Problem]:
    """Adds the traces of a row to the spool, and yields its problem if its question is new."""
    problem, new = row.problem, known.position(row.problem) is None
    agrees = new or known.agrees(problem)
    good = [sample for sample in row.samples if not isinstance(sample, BadRow)]
    for sample in row.samples:
        if isinstance(sample, BadRow):
            counts.bad_row(sample)
        elif not agrees:
            counts.conflict(problem)
    if not good or not agrees:
        return
    if new:
        known.add(problem)
        counts.problem(problem)
        yield problem
    counts.late_references[counts.name] += known.lacks_reference(problem)
    position = known.position(problem)
    assert position is not None
    for sample in good:
        counts.count("read")
        counts.given += 1
        given.add(position, problem.id, counts.name, sample)


class _KnownProblems:
    """The position and the reference of each problem; small, as those of all problems are in memory."""

    def __init__(self) -> None:
        self._positions: dict[int, int] = {}
        self._references = array("q")  # by position: a hash of the reference; -1 without one

    def position(self, problem: Problem) -> int | None:
        return self._positions.get(int(problem.id, 16))

    def add(self, problem: Problem) -> None:
        self._positions[int(problem.id, 16)] = len(self._references)
        self._references.append(_reference_hash(problem))

    def agrees(self, problem: Problem) -> bool:
        """Whether the reference of a known problem is the same, or one of the two is not known."""
        reference, before = _reference_hash(problem), self._reference_before(problem)
        return -1 in (reference, before) or reference == before

    def lacks_reference(self, problem: Problem) -> bool:
        """Whether a known problem came without a reference, and has one now."""
        return problem.reference is not None and self._reference_before(problem) == -1

    def _reference_before(self, problem: Problem) -> int:
        return self._references[self._positions[int(problem.id, 16)]]


def _reference_hash(problem: Problem) -> int:
    """A hash of the reference of 56 bits; -1 without one."""
    if problem.reference is None:
        return -1
    text = " ".join(problem.reference.split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


class _IngestCounts:
    """Counts rows by source. Prints the first bad rows and conflicts, and keeps more for the report."""

    def __init__(self, stage: str, say: Callable[[str], None], progress: Progress) -> None:
        self.stage, self.say, self.progress = stage, say, progress
        self.by_source: dict[str, dict[str, int]] = {}
        self.given = 0  # traces of all sources
        self.trace_shards: dict[str, int] = {}  # shard -> the number of its given traces
        self.listed: dict[str, list[str]] = {"bad_rows": [], "conflicting": []}
        self.columns_left_out: dict[str, Counter[str]] = {}  # source -> column -> number of its values
        self.late_references = Counter[str]()  # source -> rows whose question came before without a reference

    def begin(self, source: IngestSource) -> None:
        self.name = sources.name_of(source)
        counted = (*COUNTED, *COUNTED_OF_TRACES) if isinstance(source, TracesSource) else COUNTED
        self.current = self.by_source[self.name] = dict.fromkeys(counted, 0)
        self.left_out = self.columns_left_out[self.name] = Counter()
        self.first_bad: str | None = None

    def count(self, *what: str) -> None:
        for name in what:
            self.current[name] += 1
        self.progress.update(done=1)

    def traces(self, shard: str, found: Mapping[str, Counter[str]]) -> None:
        """Counts the traces of a shard, given by source."""
        for source, counts in found.items():
            for what, number in counts.items():
                self.by_source[source][what] += number
        if number := sum(counts[spool.KEPT] for counts in found.values()):
            self.trace_shards[shard] = number

    def problem(self, problem: Problem) -> None:
        self.current["problems"] += 1
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
        self.count("read", what)
        lines = self.listed[what]
        if len(lines) < MAX_PRINTED:
            self.say(line)
        if len(lines) < MAX_REPORTED:
            lines.append(line)

    def end(self, source: IngestSource) -> None:
        """Raises UserError if the source has no problem, or none of them the answer that it promised."""
        name, counts = sources.name_of(source), self.current
        if self.left_out:
            values = ", ".join(f"{column!r} ({n})" for column, n in self.left_out.most_common(MAX_PRINTED))
            self.say(f"source {name!r}: values that are not kept, over 4 KB or no text or number: {values}")
        if late := self.late_references[name]:
            self.say(
                f"source {name!r}: the references of {late} rows are not kept, because their questions came "
                "before without one; to keep them, put those rows first"
            )
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
        counted = (*COUNTED, *COUNTED_OF_TRACES) if self.given else COUNTED
        total = {what: sum(counts.get(what, 0) for counts in self.by_source.values()) for what in counted}
        summary = ", ".join(f"{total[what]} {what.replace('_', ' ')}" for what in counted)
        self.say(f"{self.stage}: {summary}")
        bad, conflicts = self.listed["bad_rows"], self.listed["conflicting"]
        report = {**total, "by_source": self.by_source, "bad": bad, "conflicts": conflicts}
        left_out = {name: dict(c.most_common(MAX_PRINTED)) for name, c in self.columns_left_out.items() if c}
        report |= {"columns_left_out": left_out, "late_references": dict(+self.late_references)}
        return report | ({TRACE_SHARDS: self.trace_shards} if self.given else {})


def settings(table: Ingest, recipe: Recipe) -> dict[str, Any]:
    """Returns everything that determines the problems: table, current content of the sources, seed."""
    content = [sources.fingerprint(source) for source in table.sources]
    return {**identity(table), "seed": recipe.seed, "content": content}


def check(where: str, given: Sequence[IngestSource]) -> None:
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
    version=5,  # 5: a trace_id tells equal traces apart; parts of one answer are one trace
    row=Problem,
    settings=_settings,
    check=_check,
    prepare=_prepare,
    report=report,
    free=True,
)
