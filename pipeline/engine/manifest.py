"""The manifest of a stage's folder: its settings and inputs, and how two manifests differ."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# No path separators: a manifest can name files of its own folder only.
ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]

MODEL_FILES = "model_files"  # setting with a hash of a local model's files


class Manifest(BaseModel):
    """What a folder was made from. `digests` is written last: with it the stage is complete."""

    model_config = ConfigDict(frozen=True)
    stage: str
    version: int
    settings: dict[str, Any]  # everything that changes the output
    inputs: dict[str, str]  # stage -> content id of its output
    shards: tuple[ShardName, ...] | None = None  # None until they are known
    digests: dict[str, str] | None = None  # shard -> sha256 of its Parquet file
    report: dict[str, Any] = {}  # the stage's summary of its work, for people
    partial: dict[str, int] = {}  # stage -> rows that it lacked when it was sealed with --partial

    @model_validator(mode="after")
    def _has_one_digest_per_shard(self) -> Self:
        if self.digests is not None and set(self.digests) != set(self.shards or ()):
            raise ValueError("its shards and their digests do not match")
        return self

    @property
    def identity(self) -> str:
        """Hash of everything the output depends on."""
        return _hash([self.stage, self.version, self.settings, self.inputs])

    def made_as(self, wanted: Manifest) -> bool:
        """Whether `wanted` would be made from the same. A new setting that is not set is no change."""
        return (self.stage, self.inputs) == (wanted.stage, wanted.inputs) and not difference(self, wanted)

    @property
    def lineage(self) -> dict[str, Any]:
        """The part that every shard repeats in the metadata of its Parquet file."""
        return self.model_dump(mode="json", include={"stage", "version", "settings", "inputs"})

    @property
    def content_id(self) -> str:
        """Hash of the identity and the written files; the next stage's input."""
        return _hash([self.identity, self.digests])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def difference(found: Manifest, wanted: Manifest) -> str:
    """The first setting that differs, as `temperature: 0.6 -> 0.9`, or else the inputs that do."""
    before, now = ({"version": m.version, **m.settings} for m in (found, wanted))
    changed = [name for name, id in wanted.inputs.items() if found.inputs.get(name) != id]
    return settings_difference(before, now) or (f"{' and '.join(changed)} changed" if changed else "")


def other_settings(found: Manifest, wanted: Manifest) -> str:
    """The first setting that differs, whatever the inputs are; "" if none does."""
    return settings_difference(found.settings, wanted.settings)


def settings_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting that differs and how many others do; "" if none does.

    Files of a local model that one of them does not know, since they are gone, are no difference.
    """
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if not _same(old.get(key), new.get(key))]
    keys = [key for key in keys if not (key.endswith(MODEL_FILES) and None in (old.get(key), new.get(key)))]
    if not keys:
        return ""
    first = f"{keys[0]}: {shown(old.get(keys[0]))} -> {shown(new.get(keys[0]))}"
    return first + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")


def _same(value: Any, other: Any) -> bool:
    """Whether two settings are equal; in Python 1 == True, while a server may read them in another way."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def shown(value: Any) -> str:
    """A setting's value as JSON, its middle left out if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:28] + " ... " + text[-27:]


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Flattens nested settings to one key each: {"sources.0.path": ...}."""
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
