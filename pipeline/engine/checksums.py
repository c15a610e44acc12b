"""JSON with a checksum as its last field, so that a flipped bit is noticed: lines of a log, whole files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.errors import UserError


def line(record: bytes) -> bytes:
    """Makes a line of a JSON object. The checksum is the CRC-32 of everything before it."""
    return _closed_line(record.removesuffix(b"}"))


def _closed_line(unclosed: bytes) -> bytes:
    return unclosed + b',"crc":"%08x"}\n' % zlib.crc32(unclosed)


_SUFFIX_BYTES = len(_closed_line(b""))


def intact(line: bytes) -> bool:
    """Whether a line is as `line` made it."""
    return line == _closed_line(line[:-_SUFFIX_BYTES])


def parse(line: bytes) -> dict[str, Any] | None:
    """Parses a line, without its checksum; None if it is damaged."""
    return from_json(line[:-_SUFFIX_BYTES] + b"}") if intact(line) else None


def document(data: bytes) -> bytes:
    """Adds a checksum to a JSON object that is the content of a file."""
    return _closed_document(data.rstrip().removesuffix(b"}").rstrip())


def _closed_document(unclosed: bytes) -> bytes:
    return unclosed + b',\n  "checksum": "%08x"\n}\n' % zlib.crc32(unclosed)


def verified(data: bytes) -> bytes:
    """Removes the checksum of a file's content. Raises ValueError if it does not match; it may be absent."""
    unclosed = data[: -len(_closed_document(b""))]
    if b'\n  "checksum": ' not in data:
        return data
    if data != _closed_document(unclosed):
        raise ValueError("its checksum does not match")
    return unclosed + b"}"


def read(path: Path) -> bytes:
    """Reads a file that `document` made. Raises UserError if it is damaged."""
    try:
        return verified(path.read_bytes())
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): restore it from a copy, or delete it") from None
