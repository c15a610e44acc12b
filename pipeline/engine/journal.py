"""The journals of a shard: the names of the files, and their lines."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.engine.checksums import line
from pipeline.engine.owner import PATTERN

# An owner's name has no dot, so that no journal belongs to two shards
_JOURNAL = re.compile(rf"(.+)\.({PATTERN})\.jsonl")


def journals_in(folder: Path) -> dict[str, list[Path]]:
    """The journals in a folder by the name of their shard, each list in the order of the owners."""
    matches = map(_JOURNAL.fullmatch, os.listdir(folder) if folder.exists() else ())
    found: dict[str, list[Path]] = {}
    for match in sorted(filter(None, matches), key=lambda match: match[2]):
        found.setdefault(match[1], []).append(folder / match[0])
    return found


def done_line(row: Any) -> bytes:
    """The journal line of a finished item. Its key is the row's id."""
    return line(f'{{"key":{json.dumps(row.id)},"row":{row.model_dump_json()}}}'.encode())


def failed_line(key: str, error: str, first: bool = False) -> bytes:
    """The journal line of a failed attempt; the item is not done and will be tried again.

    `first`: it had no row yet, so a row of another owner shows that the item is done.
    """
    return line(json.dumps({"key": key, "failed": error, "first": first}).encode())


def end_of_last_line(file: BinaryIO) -> int:
    """The offset just after the last newline; 0 if there is none."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
