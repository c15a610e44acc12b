"""A stage's folder: its shards, and the manifest that says under which settings they were made.

Counts are read from the folder, never kept in memory, so they are right from another process and after a
crash. A folder made under other settings is refused, naming the setting; what a shard is, shard.py says.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.engine import atomic_files
from pipeline.engine.progress import say
from pipeline.engine.shard import Counts, Shard
from pipeline.errors import Stopped, UserError
from pipeline.rows import Row

ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # a file of the folder itself


class Manifest(BaseModel):
    """Under which settings a folder was made. `digests` is written last: with it the stage is complete."""

    model_config = ConfigDict(frozen=True)
    stage: str
    version: int
    settings: dict[str, Any]  # all that changes the output
    inputs: dict[str, str]  # stage -> content id of what it wrote
    shards: tuple[ShardName, ...] | None = None  # names; None until they are known
    digests: dict[str, str] | None = None  # shard -> sha256 of its Parquet file
    report: dict[str, Any] = {}  # what the stage says of its work, for people

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.digests is not None and set(self.digests) != set(self.shards or ()):
            raise ValueError("its shards and their digests are not the same ones")
        return self

    @property
    def identity(self) -> str:
        """Hash of what the output depends on. Two folders with one identity hold the same thing."""
        return _hash([self.stage, self.version, self.settings, self.inputs])

    @property
    def lineage(self) -> dict[str, Any]:
        """What every shard says of its own making, in the metadata of its Parquet file."""
        return self.model_dump(mode="json", include={"stage", "version", "settings", "inputs"})

    @property
    def content_id(self) -> str:
        """Hash of the identity and of what was really written; what the next stage depends on."""
        return _hash([self.identity, self.digests])


class Output:
    """One stage's folder: a manifest, shards, and a lock that only the process working on it holds."""

    def __init__(self, folder: Path, row: type[Row]) -> None:
        self.folder = folder
        self.row = row

    def manifest(self) -> Manifest | None:
        try:
            return Manifest.model_validate_json(_checked((self.folder / "manifest.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            why = e.errors()[0]["msg"] if isinstance(e, ValidationError) else str(e).splitlines()[0]
            raise UserError(
                f"{self.folder}/manifest.json cannot be read ({why}): put a copy in its place, or delete the "
                "folder and those of later stages"
            ) from None

    @property
    def complete(self) -> bool:
        manifest = self.manifest()
        return manifest is not None and manifest.digests is not None and all(s.sealed for s in self.shards())

    def claim(self, manifest: Manifest, overwrite: bool = False) -> None:
        """Take the folder for this work. One made under other settings is refused, naming what differs.

        A folder where nothing was done yet, as after a refused try, belongs to nobody. `overwrite`: shards of
        other settings are taken away instead; the folders within are others' and stay.
        """
        held = self.manifest()
        if held is not None and held.identity == manifest.identity:
            return
        if not overwrite:
            self.check(manifest)
        for path in self.folder.glob("*.parquet") if overwrite else ():
            path.unlink()
        self._save(manifest)

    def check(self, manifest: Manifest) -> None:
        """Raise UserError, naming what differs, where work begun under other settings lies here."""
        held = self.manifest()
        if held is not None and held.identity != manifest.identity and self._begun():
            inside = any(
                self.folder.glob("*/**/manifest.json")
            )  # what was paid for, perhaps, and still holds
            what = "its manifest.json and *.parquet, not the folders in it," if inside else "that folder"
            raise UserError(
                f"{self.folder} was made under other settings: {_difference(held, manifest)}; "
                f"give the run another name (run=NAME) or delete {what} and those of later stages"
            )

    def finish(self, report: dict[str, Any] | None = None) -> None:
        """Declare the stage complete. The manifest with the shards' digests is the last thing written."""
        manifest = self.manifest()
        assert manifest is not None, "finish() comes after begin()"
        self._refuse_strange(manifest)
        names = tuple(shard.name for shard in self.shards())
        digests = {name: _digest(self.folder / f"{name}.parquet") for name in names}
        update = {"shards": names, "digests": digests, "report": report or {}}
        self._save(manifest.model_copy(update=update))

    def _refuse_strange(self, manifest: Manifest) -> None:
        """Take away shards that a process wrote meanwhile which lived on from a try under other settings."""
        strange = [shard for shard in self.shards() if shard.lineage_found() != manifest.lineage]
        for shard in strange:
            shard.path.unlink()
        if strange:
            raise Stopped(
                f"{self.folder}: {len(strange)} shards, such as {strange[0].name}, were written meanwhile by "
                "a process that lived on from a try under other settings; the same command makes them again"
            )

    def check_unchanged(self) -> None:
        """Raise UserError where a shard of the complete stage is not the file that it wrote."""
        manifest = self.manifest()
        for name, digest in ((manifest.digests if manifest else None) or {}).items():
            path = self.folder / f"{name}.parquet"
            if _digest(path) != digest:
                raise UserError(
                    f"{path} is not the file that its stage wrote: put a copy of that in its place, or "
                    "delete it, and its stage makes it again"
                )

    def shards(self) -> list[Shard]:
        """The shards the manifest names; before it names any, those that lie in the folder."""
        manifest = self.manifest()
        names = manifest.shards if manifest else None
        if names is None:
            names = tuple(sorted(p.stem for p in self.folder.glob("*.parquet")))
        return [Shard(self.folder, name, self.row, manifest.lineage if manifest else {}) for name in names]

    def sealed_paths(self) -> list[Path]:
        """The files of the shards that are sealed. Raises UserError where a complete stage lacks one."""
        manifest = self.manifest()
        paths = {shard.path: shard.sealed for shard in self.shards()}
        if manifest and manifest.digests is not None and not all(paths.values()):
            lost = next(path for path, there in paths.items() if not there)
            raise UserError(f"{lost} is missing: put a copy in its place, or its stage makes it again")
        return [path for path, there in paths.items() if there]

    def write(self, name: str, rows: Iterable[Row]) -> None:
        """Seal one shard at once, for stages whose work is not paid for by the unit."""
        manifest = self.manifest()
        assert manifest is not None, "write() comes after begin()"
        Shard(self.folder, name, self.row, manifest.lineage).write(row.model_dump() for row in rows)

    def rows(self) -> Iterator[Any]:
        for shard in self.shards():
            yield from shard.rows()

    def counts(self) -> Counts:
        each = [shard.count() for shard in self.shards()]
        return Counts(*(sum(getattr(c, f) for c in each) for f in ("rows", "failed", "shards", "sealed")))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other processes; the system lets go when this one ends, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as file:
            held = atomic_files.lock(file, fcntl.LOCK_EX, tries=5)
            if held is None:
                say(
                    f"{self.folder}: this file system has no locks: let no other command write here meanwhile"
                )
            elif not held:
                file.seek(0)
                raise UserError(
                    f"{self.folder}: process {file.read().strip()} is working on it; wait or stop it"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            atomic_files.remove_leftovers(self.folder)
            yield

    @property
    def busy(self) -> bool:
        """Whether a process is working on the folder right now."""
        try:
            with (self.folder / ".lock").open() as file:
                return atomic_files.lock(file, fcntl.LOCK_SH, tries=1) is False
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _begun(self) -> bool:
        """Whether any work lies here: a shard, a journal, a checkpoint."""
        return any(any(self.folder.glob(p)) for p in ("*.parquet", "*.jsonl", "checkpoints/checkpoint-*"))

    def _save(self, manifest: Manifest) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = manifest.model_dump_json(indent=2).encode().removesuffix(b"\n}")
        atomic_files.write_atomic(self.folder / "manifest.json", begun + _checksum(begun))


def _checksum(begun: bytes) -> bytes:
    """The end of a manifest: its last field is the CRC-32 of what stands before it."""
    return b',\n  "checksum": "%08x"\n}\n' % zlib.crc32(begun)


def _checked(data: bytes) -> bytes:
    """A manifest as it was written. Raises ValueError when it is damaged; an older one has no checksum."""
    begun = data[: -len(_checksum(b""))]
    if b'\n  "checksum": ' in data and data != begun + _checksum(begun):
        raise ValueError("it is not as it was written")
    return data


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _difference(held: Manifest, wanted: Manifest) -> str:
    """The first setting that differs, as `temperature: 0.6 -> 0.9`, and how many others do."""
    old, new = (flat({**m.settings, "input": m.inputs, "version": m.version}) for m in (held, wanted))
    keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    first = f"{keys[0]}: {shown(old.get(keys[0]))} -> {shown(new.get(keys[0]))}"
    return first + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")


def shown(value: Any) -> str:
    """A setting's value, its middle left out where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:28] + " ... " + text[-27:]


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings within settings by one key each: {"sources.0.path": ...}."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict) and value:
            for key, below in value.items():
                walk(f"{prefix}.{key}", below)
        else:
            found[prefix.lstrip(".")] = value

    walk("", settings)
    return found
