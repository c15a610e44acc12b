"""Finds paid rows of earlier results, so that a stage asks for what is new only.

Earlier results are those set aside in the run (`previous.py`), and with `reuse = OLD` those of another run.
The stage decides which of their rows are still valid. These are appended to its own journals, as if they had
just been answered, so resuming, counting and sealing know nothing of where a row came from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.engine.journal import done_line
from pipeline.engine.manifest import Manifest
from pipeline.engine.previous import earlier_outputs, remove
from pipeline.engine.query import Part, reading, rows_of
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import Row

T = TypeVar("T")
Adopt = Callable[[Any], Row | None]  # an earlier row as the stage would write it now; None if it is not valid


class EarlierRows:
    """The rows of earlier results by the value of one column, such as the problem's id."""

    def __init__(self, column: str, results: Iterable[tuple[Output, Adopt]]) -> None:
        self._column = column
        self._shards: dict[str, list[tuple[Shard, Adopt]]] = defaultdict(list)
        self.outputs: list[Output] = []  # that have valid rows
        for output, adopt in results:
            self.outputs.append(output)
            for shard in output.shards():
                for (value,) in dict.fromkeys(shard.values(column)):
                    self._shards[value].append((shard, adopt))

    def of(self, values: Collection[str]) -> Iterator[Any]:
        """Yields the valid rows with these values, those of newer results first."""
        wanted = set(values)
        found = dict.fromkeys(place for value in values for place in self._shards.get(value, ()))
        for shard, adopt in found:
            for row in shard.rows() if shard.sealed else shard.journal_rows():
                if getattr(row, self._column) in wanted and (adopted := adopt(row)):
                    yield adopted


def take_over(shard: Shard, rows: Iterable[Row]) -> int:
    """Appends rows to an open shard, but for those whose ids it has already; returns their number."""
    known = set(shard.read_journal().rows)
    lines = []
    for row in rows:
        if row.id not in known:  # type: ignore[attr-defined]
            known.add(row.id)  # type: ignore[attr-defined]
            lines.append(done_line(row))
    if lines:
        shard.append(lines)
    return len(lines)


def take_over_by_id(
    job: Job, wanted: Callable[[Shard], Mapping[str, T]], adopt: Callable[[Any, T], Row | None]
) -> None:
    """Takes over rows without an error, from earlier results that nothing contradicts, into the open shards.

    wanted: the ids that a shard may have, each with what `adopt` needs to tell the row as it is now.
    """
    present = job.output.manifest()
    assert present is not None
    same = [output for output, found in results(job) if not job.stage.contradiction(found, present)]
    earlier = EarlierRows("id", [(output, lambda row: row if row.error is None else None) for output in same])
    for shard in job.share() if same else ():
        if not shard.sealed:
            now = wanted(shard)
            rows = (adopt(row, now[row.id]) for row in earlier.of(now))
            take_over(shard, (row for row in rows if row))


def results(job: Job) -> Iterator[tuple[Output, Manifest]]:
    """The earlier results of the job's stage, with their manifests, newest first.

    Left out are results of another version, and those whose inputs differ other than in their shards, such as
    the answers of a student that was trained again. Raises UserError if the run to reuse does not exist or is
    of another version.
    """
    outputs = earlier_outputs(job.run_dir, job.stage.name, job.stage.row)
    if job.recipe.reuse is not None:
        other = job.run_dir.parent / job.recipe.reuse
        if not (other / "recipe.json").exists():
            raise UserError(f"reuse = {job.recipe.reuse!r}: there is no run {other}")
        found = job.stage.output(other)
        found.check_version(job.stage.version)
        outputs += [found, *earlier_outputs(other, job.stage.name, job.stage.row)]
    inputs = {name: m.content_id for name, given in job.inputs.items() if (m := given.manifest())}
    inputs.pop(job.stage.shards_from or "")
    for output in outputs:
        manifest = output.manifest()
        if manifest and manifest.version == job.stage.version and inputs.items() <= manifest.inputs.items():
            yield output, manifest


def remove_superseded(job: Job) -> None:
    """Deletes the results set aside whose rows were all taken over; says what another one still has."""
    own = {output.folder for output in earlier_outputs(job.run_dir, job.stage.name, job.stage.row)}
    present = job.output.manifest()
    assert present is not None
    for output, found in results(job):
        if output.folder not in own or job.stage.contradiction(found, present):
            continue
        missing = _missing(output, job.output, job.stage.key)
        if missing:
            job.say(f"{job.stage.name}: {output.folder} keeps {missing} rows that these settings do not need")
        else:
            remove(output)


def _missing(earlier: Output, present: Output, key: Sequence[str]) -> int:
    """The number of earlier rows that the present result lacks."""
    parts, now = ([Part(shard) for shard in output.shards()] for output in (earlier, present))
    with reading([path for part in (*parts, *now) for path in part.paths]) as connection:
        before, after = (rows_of(connection, earlier.row, each, key) for each in (parts, now))
        count = f"select count(*) from ({before}) anti join ({after}) using ({', '.join(key)})"
        (found,) = connection.execute(count).fetchall()
    return int(found[0])
