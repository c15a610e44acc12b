"""Reads the lines of a file with a length limit; lines of the current record can be read again."""

from __future__ import annotations

import codecs
from collections import deque
from typing import IO

RECORD_LIMIT = 16 * 2**20  # bytes of one row


class RecordTooLong(Exception):
    pass


class LineReader:
    """Iterates over the lines of a file as bytes, numbered from 1.

    `record` holds the lines of the current record; the caller calls begin() before each one. A CSV record may
    span lines, and an unclosed quote takes in the rest of the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.number = file, 0
        self.record: list[bytes] = []
        self._returned: deque[bytes] = deque()
        self._size = 0  # bytes of the record

    def __iter__(self) -> LineReader:
        return self

    def __next__(self) -> bytes:
        line = self._returned.popleft() if self._returned else self.file.readline(RECORD_LIMIT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._size += len(line)
        if self._size > RECORD_LIMIT:
            if self.record:  # the line alone may be a good record
                self._returned.appendleft(line)
                self.number -= 1
            while not self.record and line and not line.endswith(b"\n"):
                line = self.file.readline(RECORD_LIMIT)
            raise RecordTooLong(f"longer than {RECORD_LIMIT >> 20} MB")
        self.record.append(line)
        return line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line

    def begin(self) -> None:
        """Starts a record with the next line."""
        self.record, self._size = [], 0

    def give_back(self) -> None:
        """Returns all lines of the record but the first, to be read again."""
        self._returned.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1
        self.record = self.record[:1]
