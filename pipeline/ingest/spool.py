"""Sorts the given traces of all sources by the shard of their problem, in bounded memory.

Traces of one problem may lie anywhere in a source, and of several sources. While rows are read, their traces
are appended to a file for each shard; then each file is read by itself, and its traces are written in the
order of their problems. So memory holds a buffer, and later the places of one shard's traces.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.engine.shard import Shard
from pipeline.ingest.traces import GivenSample
from pipeline.rows import Problem, Question, Trace

FOLDER = "traces"  # in the folder of ingest
GIVEN = "given"  # in the id of a trace, in place of the teacher's position
ID_CHARS = 12  # of a trace's key, in its id: so it stays its own wherever rows are added
BUFFER = 64 * 2**20  # bytes
KEPT, HELD_OUT, DUPLICATES = "traces", "held_out_traces", "duplicates"  # what becomes of a trace

_UNKNOWN = {name: f.get_default() for name, f in Trace.model_fields.items() if not f.is_required()}
_UNKNOWN |= {"prompt": None, "prompt_hash": None, "sampling": None, "seed": None, "prompt_tokens": None}
_QUESTION = set(Question.model_fields) - {"source", "columns"}


class Spool:
    """The unsorted traces in a folder, a file for each shard of problems."""

    def __init__(self, folder: Path, shard_size: int, buffer: int = BUFFER) -> None:
        """buffer: bytes held before they are appended to their files."""
        self._folder, self._shard_size, self._buffer = folder, shard_size, buffer
        self._lines: dict[int, list[bytes]] = defaultdict(list)
        self._bytes = 0

    def add(self, position: int, problem_id: str, source: str, sample: GivenSample) -> None:
        """Adds a trace of the problem with this position among all problems."""
        line = f"{problem_id} {source} {sample.key} {json.dumps(list(vars(sample).values()))}\n".encode()
        self._lines[position // self._shard_size].append(line)
        self._bytes += len(line)
        if self._bytes > self._buffer:
            self.flush()

    def flush(self) -> None:
        """Appends what is held in memory to the files."""
        if self._lines:
            self._folder.mkdir(parents=True, exist_ok=True)
        for number, lines in self._lines.items():
            with unsorted(self._folder, shard_name(number)).open("ab") as file:
                file.writelines(lines)
        self._lines.clear()
        self._bytes = 0


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def unsorted(folder: Path, shard: str) -> Path:
    return folder / f"{shard}.unsorted"


def given_traces(problems: Shard) -> Shard:
    """The shard of given traces of a shard of problems; it is sealed if there are any."""
    return Shard(problems.path.parent / FOLDER, problems.name, Trace, problems.lineage)


def remove(folder: Path) -> None:
    """Removes the given traces of an earlier attempt; `folder` is that of ingest."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def sort(problems: Shard) -> dict[str, Counter[str]]:
    """Writes the given traces of a shard of problems; returns what became of them, by source.

    Repeated traces are left out, and so are those of problems that are held out. `sample` numbers the others
    of a problem from 0, in the order in which they were read.
    """
    traces = given_traces(problems)
    path = unsorted(traces.path.parent, problems.name)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    if path.exists():
        known = {problem.id: problem for problem in problems.rows()}
        with path.open("rb") as file:
            places = _places(file, known, found)
            if any(places.values()):
                traces.write(_rows(file, known, places))
        path.unlink()
    return dict(found)


def _places(
    file: IO[bytes], problems: Mapping[str, Problem], found: dict[str, Counter[str]]
) -> dict[str, list[int]]:
    """Problem -> the offsets of its traces; counts all traces in `found`."""
    places: dict[str, list[int]] = {id: [] for id in problems}
    seen: set[tuple[bytes, bytes]] = set()
    offset = 0
    for line in file:
        id, source, key, _ = line.split(b" ", 3)
        problem = problems[id.decode()]
        what = DUPLICATES if (id, key) in seen else KEPT if problem.split == "train" else HELD_OUT
        seen.add((id, key))
        found[source.decode()][what] += 1
        if what == KEPT:
            places[problem.id].append(offset)
        offset += len(line)
    return places


def _rows(
    file: IO[bytes], problems: Mapping[str, Problem], places: Mapping[str, Sequence[int]]
) -> Iterator[dict[str, Any]]:
    for id, offsets in places.items():
        fields = problems[id].model_dump(include=_QUESTION)
        for number, offset in enumerate(offsets):
            file.seek(offset)
            _, source, _, text = file.readline().split(b" ", 3)
            sample = GivenSample(*json.loads(text))
            yield {
                **_UNKNOWN,
                **fields,
                "id": f"{id}-{GIVEN}-{sample.key[:ID_CHARS]}",
                "problem_id": id,
                "sample": number,
                "source": source.decode(),
                "columns": sample.columns,
                "teacher": sample.teacher,
                "teacher_generation": sample.teacher_generation,
                "reasoning": sample.reasoning,
                "response": sample.response,
                "finish_reason": sample.finish_reason,
                "completion_tokens": sample.completion_tokens,
            }
