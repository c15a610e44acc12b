"""The lines of a file one at a time, bounded in length, of which some can be read once more."""

from __future__ import annotations

import codecs
from collections import deque
from typing import IO

RECORD_LIMIT = 16 * 2**20  # bytes of one row


class RecordTooLong(Exception):
    pass


class Lines:
    """The lines of a file as bytes, counted from 1.

    `record` holds the lines of the record being read; whoever starts a new one calls begin(). In CSV a
    record may span lines, and a quote that is never closed takes in all the rest of the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.number = file, 0
        self.record: list[bytes] = []
        self._again: deque[bytes] = deque()
        self._taken = 0  # bytes of the record

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        line = self._again.popleft() if self._again else self.file.readline(RECORD_LIMIT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._taken += len(line)
        if self._taken > RECORD_LIMIT:
            if self.record:  # it may be a good one by itself
                self._again.appendleft(line)
                self.number -= 1
            while not self.record and line and not line.endswith(b"\n"):
                line = self.file.readline(RECORD_LIMIT)
            raise RecordTooLong(f"longer than {RECORD_LIMIT >> 20} MB")
        self.record.append(line)
        return line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line

    def begin(self) -> None:
        """What is read next starts a record."""
        self.record, self._taken = [], 0

    def give_back(self) -> None:
        """Have all lines of the record but its first read once more."""
        self._again.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1
        self.record = self.record[:1]
