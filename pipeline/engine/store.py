"""A stage's folder: its shards, and a manifest with the settings and inputs that they were made from.

Counts come from the files, not from memory, so they are right in another process and after a crash. A folder
made with other settings or by another version of the stage is refused, naming the difference.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from pipeline.engine import atomic_files, checksums
from pipeline.engine.journal import journals_in
from pipeline.engine.manifest import Manifest
from pipeline.engine.progress import say
from pipeline.engine.shard import Counts, Shard
from pipeline.errors import Stopped, UserError
from pipeline.rows import Row


class InUse(UserError):
    """Another process works on the folder."""


class Output:
    """One stage's folder: a manifest, shards, and a lock held by the process that works on it."""

    def __init__(self, folder: Path, row: type[Row]) -> None:
        self.folder = folder
        self.row = row

    def manifest(self) -> Manifest | None:
        try:
            data = (self.folder / "manifest.json").read_bytes()
            return Manifest.model_validate_json(checksums.verified(data))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            why = e.errors()[0]["msg"] if isinstance(e, ValidationError) else str(e).splitlines()[0]
            raise UserError(
                f"{self.folder}/manifest.json cannot be read ({why}): restore it from a copy, or delete the "
                "folder and those of later stages"
            ) from None

    @property
    def complete(self) -> bool:
        manifest = self.manifest()
        return manifest is not None and manifest.digests is not None and all(s.sealed for s in self.shards())

    def check_version(self, version: int) -> None:
        """Raises UserError if the folder was written by another version of the stage."""
        found = self.manifest()
        if found is not None and found.version != version and self.has_output:
            raise UserError(
                f"{self.folder} was made by version {found.version} of the stage {found.stage}, but this "
                f"release has version {version}: start a new run (run=NAME) or use the release that made it"
            )

    def finish(self, report: dict[str, Any] | None = None, partial: dict[str, int] | None = None) -> None:
        """Marks the stage complete: the manifest with the shards' digests is the last thing written."""
        manifest = self.manifest()
        assert manifest is not None, "finish() comes after save()"
        self._remove_foreign_shards(manifest)
        names = tuple(shard.name for shard in self.shards())
        digests = {name: _digest(self.folder / f"{name}.parquet") for name in names}
        update = {"shards": names, "digests": digests, "report": report or {}, "partial": partial or {}}
        self.save(manifest.model_copy(update=update))
        self._remove_late_journals()

    def _remove_foreign_shards(self, manifest: Manifest) -> None:
        """Removes shards sealed meanwhile by a process that survived an attempt with other settings."""
        foreign = [shard for shard in self.shards() if shard.sealed_lineage() != manifest.lineage]
        for shard in foreign:
            shard.path.unlink()
        if foreign:
            raise Stopped(
                f"{self.folder}: {len(foreign)} shards, such as {foreign[0].name}, were written by another "
                "process that still runs with other settings; run the command again to remake them"
            )

    def check_unchanged(self) -> None:
        """Raises UserError if a shard of the complete stage is not the file that the stage wrote."""
        manifest = self.manifest()
        for name, digest in ((manifest.digests if manifest else None) or {}).items():
            path = self.folder / f"{name}.parquet"
            if _digest(path) != digest:
                raise UserError(
                    f"{path} is not the file that its stage wrote: restore it from a copy, or delete it and "
                    "run its stage again"
                )

    def shards(self) -> list[Shard]:
        """The shards named in the manifest; until it names any, those in the folder."""
        manifest = self.manifest()
        names = manifest.shards if manifest else None
        if names is None:
            names = tuple(sorted(p.stem for p in self.folder.glob("*.parquet")))
        return [Shard(self.folder, name, self.row, manifest.lineage if manifest else {}) for name in names]

    def sealed_paths(self) -> list[Path]:
        """The files of the sealed shards. Raises UserError if a complete stage lacks one."""
        manifest = self.manifest()
        shards = self.shards()
        missing = [shard.path for shard in shards if not shard.sealed]
        if missing and manifest and manifest.digests is not None:
            raise UserError(f"{missing[0]} is missing: restore it from a copy, or run its stage again")
        return [shard.path for shard in shards if shard.path not in missing]

    def shard(self, name: str) -> Shard:
        """A shard to read. To write one, take it from `shards`, which knows its lineage."""
        return Shard(self.folder, name, self.row, {})

    def write(self, name: str, rows: Iterable[Row]) -> None:
        """Seals one shard without a journal, for stages whose work is cheap to repeat."""
        manifest = self.manifest()
        assert manifest is not None, "write() comes after save()"
        Shard(self.folder, name, self.row, manifest.lineage).write(row.model_dump() for row in rows)

    def report(self) -> Counter[str]:
        """The sums of the counts that the sealed shards carry."""
        return sum((shard.report() for shard in self.shards() if shard.sealed), Counter[str]())

    def rows(self) -> Iterator[Any]:
        for shard in self.shards():
            yield from shard.rows()

    def counts(self) -> Counts:
        journals = journals_in(self.folder)  # listed once, since a folder may hold many thousands of files
        each = [shard.count(journals.get(shard.name, ())) for shard in self.shards()]
        return Counts(*(sum(getattr(c, f) for c in each) for f in ("rows", "failed", "shards", "sealed")))

    @contextmanager
    def lock(self, shared: bool = False, first: Callable[[], object] | None = None) -> Iterator[None]:
        """Locks the folder against other processes; the system unlocks it however this process ends.

        shared: for a worker that has a share of the shards. Workers lock the folder at the same time, but not
            while a process holds it alone.
        first: called by a worker that finds no other at work, before any other can begin.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as file:
            alone = atomic_files.lock(file, fcntl.LOCK_EX, attempts=1 if shared else 5)
            if shared and alone and first is not None:
                first()
            locked = atomic_files.lock(file, fcntl.LOCK_SH, attempts=100) if shared else alone
            if locked is None:
                say(f"{self.folder}: this file system has no locks; run no other command on it meanwhile")
            elif not locked:
                raise InUse(f"{self.folder}: {_holders(file)}; wait or stop it")
            if alone:
                file.truncate(0)
            file.write(_this_process() + "\n")
            file.flush()
            if not shared:
                atomic_files.remove_leftovers(self.folder)
            self._remove_late_journals()
            yield

    @property
    def busy(self) -> bool:
        """Whether a process is working on the folder now."""
        path = self.folder / ".lock"
        try:
            # NFS locks a file exclusively only if it is open for writing
            with path.open("r+" if os.access(path, os.W_OK) else "r") as file:
                return atomic_files.lock(file, fcntl.LOCK_EX, attempts=2) is False
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _remove_late_journals(self) -> None:
        """Removes journals that paused owners wrote after their shard was sealed by another one."""
        for name, journals in journals_in(self.folder).items():
            if (self.folder / f"{name}.parquet").exists():
                for journal in journals:
                    journal.unlink(missing_ok=True)

    @property
    def has_output(self) -> bool:
        files = (path for name in ("*.parquet", "*.jsonl") for path in self.folder.glob(name))
        return any(f.stat().st_size for f in files) or any(self.folder.glob("checkpoints/checkpoint-*"))

    def save(self, manifest: Manifest) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = checksums.document(manifest.model_dump_json(indent=2).encode())
        atomic_files.write_atomic(self.folder / "manifest.json", data)


def _this_process() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f" (Slurm job {job})" if job else "")


def _holders(lock_file: TextIO) -> str:
    """The processes that may hold the lock: all that took it since it was last free."""
    lock_file.seek(0)
    here = f" on {socket.gethostname()}"
    holders = [
        line
        for line in lock_file.read().splitlines()
        if here not in line or atomic_files.alive(line.split()[1])
    ]
    more = f", and {len(holders) - 1} more" if len(holders) > 1 else ""
    return f"{holders[-1] if holders else 'another process'} is working on it{more}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
