"""Remembers which batches a stage has paid for, so that no request is sent twice whatever kills the command.

Each process appends to a file of its own, OWNER.jsonl, and reads those of all. A line is on disk before the
next call to the server: the uploaded file with the requests in it, then the batch, then its results. The
requests are named by a hash of all that they send.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine import checksums
from pipeline.engine.atomic_files import append
from pipeline.engine.owner import this_owner


@dataclass
class PaidBatch:
    """A batch as the ledger knows it."""

    file: str  # the server's id of the uploaded file
    requests: frozenset[str]
    unsent: frozenset[str]  # fields left out of all of its requests
    id: str | None = None  # None: whether the server created the batch is not known
    former: frozenset[str] = frozenset()  # ids of batches of the same file that the server refused
    status: str = ""  # once it has ended
    results: tuple[str, ...] = ()  # ids of the server's files
    taken: frozenset[str] = frozenset()  # requests whose results are needed no more


class Ledger:
    """The batches of one model in one stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / f"{this_owner()}.jsonl"

    def read(self) -> list[PaidBatch]:
        """The batches whose results may still be needed, in the order in which they were sent."""
        found: dict[str, PaidBatch] = {}
        paths = sorted(self.folder.glob("*.jsonl"))
        lines = (line for path in paths for line in path.read_bytes().splitlines(keepends=True))
        events = [event for line in lines if (event := checksums.parse(line))]
        # A process may go on with a batch of one that started later, whose file is read after its own
        for event in sorted(events, key=lambda event: "requests" not in event):
            _apply(found, event)
        return list(found.values())

    def uploaded(self, batch: PaidBatch) -> None:
        self._append(batch, requests=sorted(batch.requests), unsent=sorted(batch.unsent))

    def created(self, batch: PaidBatch) -> None:
        self._append(batch, batch=batch.id)

    def refused(self, batch: PaidBatch) -> None:
        self._append(batch, refused=batch.id)

    def ended(self, batch: PaidBatch) -> None:
        self._append(batch, status=batch.status, results=batch.results)

    def saved(self, batch: PaidBatch, requests: Collection[str]) -> None:
        """What these requests led to is on disk, so one that failed may be sent anew.

        Others of the batch may belong to other processes, which still need their results.
        """
        batch.taken |= frozenset(requests)
        if batch.taken >= batch.requests:
            self.collected(batch)
        elif requests:
            self._append(batch, taken=sorted(requests))

    def collected(self, batch: PaidBatch) -> None:
        """Forgets a batch whose results are needed no more."""
        self._append(batch, collected=True)
        for path in self.results_of(batch):
            path.unlink(missing_ok=True)
            requests_of(path).unlink(missing_ok=True)

    def results_of(self, batch: PaidBatch) -> list[Path]:
        """Where the results are stored on this machine, file by file."""
        return [results_path(self.folder, file) for file in batch.results]

    def _append(self, of: PaidBatch, **event: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        append(self._own, checksums.line(json.dumps({"file": of.file} | event).encode()))


def results_path(folder: Path, file: str) -> Path:
    return folder / f"{_name(file)}.results"


def requests_of(results: Path) -> Path:
    """The file of requests that a user has answered, beside the file of its results."""
    return results.with_suffix(".requests")


def request_name(fields: dict[str, Any]) -> str:
    """Names a request by all that it sends: equal requests have one name in every process."""
    return _name(json.dumps(fields, sort_keys=True))


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _apply(found: dict[str, PaidBatch], event: dict[str, Any]) -> None:
    file = event["file"]
    if "requests" in event:
        found[file] = PaidBatch(file, frozenset(event["requests"]), frozenset(event["unsent"]))
    elif (batch := found.get(file)) is None:
        pass
    elif "batch" in event:
        batch.id = event["batch"] if event["batch"] not in batch.former else batch.id
    elif "refused" in event:
        batch.id, batch.former = None, batch.former | {event["refused"]}
    elif "status" in event:
        batch.status, batch.results = event["status"], tuple(event["results"])
    elif "taken" in event:
        batch.taken |= frozenset(event["taken"])
    elif "collected" in event:
        del found[file]
