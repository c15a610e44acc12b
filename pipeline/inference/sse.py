"""The JSON bodies in the bytes of an answer: one, or a stream of server-sent events.

Which of the two it is shows in its first bytes, whatever was asked for and its headers say. The form of a
stream: https://html.spec.whatwg.org/multipage/server-sent-events.html. Leaves out what the bodies say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from pipeline.inference.http import Retry

HEAD = 2**16  # bytes in which it shows whether they are a stream

_EVENT = re.compile(rb"(data|event|id|retry)?:")  # how a line of a stream begins
_BLANK = b"\xef\xbb\xbf \t\r\n"
_WORDS = 2000  # bytes of what is no JSON that are looked at for words to repeat
_HIDDEN = re.compile(r"<(?:style|script|svg)\b[^<]*|<[^<>]*>")  # of a page of HTML
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of pairs that stand for no byte of a bad text


class Bodies:
    """Takes bytes as they come and hands each JSON body to `take`.

    Raises Retry for what is no JSON or was cut off, and what `take` raises.
    """

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._buffer = bytearray()
        self._streamed = False  # for certain
        self._event: list[bytes] = []  # the data of the event being read, line by line
        self._done = False

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        if b"\n" in chunk and self._is_stream():
            end = self._buffer.rfind(b"\n") + 1
            self._read_lines(bytes(self._buffer[:end]))
            del self._buffer[:end]

    def end(self) -> bool:
        """Read the rest. Whether the answer is known to be whole: one body, or a stream that said [DONE]."""
        if not self._is_stream():
            self._take(_json(bytes(self._buffer).strip(_BLANK)))
            return True
        self._read_lines(bytes(self._buffer))
        if self._event:  # without a blank line after it
            self._end_event(last=True)
        return self._done

    def _is_stream(self) -> bool:
        self._streamed = self._streamed or bool(_EVENT.match(self._buffer[:HEAD].lstrip(_BLANK)))
        return self._streamed

    def _read_lines(self, text: bytes) -> None:
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for line in text.split(b"\n"):
            if line.startswith(b"data:"):
                self._event.append(line[5:].strip())
            elif not line and self._event:
                self._end_event()

    def _end_event(self, last: bool = False) -> None:
        data = b"\n".join(self._event)
        self._event = []
        if data == b"[DONE]":
            self._done = True
        elif data and not self._done:
            try:
                self._take(_json(data))
            except Retry:
                if not last:
                    raise
                raise Retry("cut", "the answer was cut off in the middle of an event") from None


def mended(text: str) -> str:
    """The text with halves of a character put together, and U+FFFD for those that lack the other half.

    `_json` leaves what is no Unicode as surrogates: halves of UTF-16 pairs that came as escapes, and bytes of
    UTF-8 that were cut between two events. Of a whole text both can be told.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _NO_BYTES.sub("\ufffd", paired).encode(errors="surrogateescape").decode(errors="replace")
    return text


def words_in(data: bytes) -> str:
    """The first words of a body that is no JSON: of a page of HTML those that it shows."""
    text = data[:_WORDS].decode(errors="replace")
    return " ".join((_HIDDEN.sub(" ", text) if "<" in text else text).split())


def _json(data: bytes) -> Any:
    try:
        return from_json(data, cache_strings="keys")
    except ValueError as e:
        fault = e
    try:
        return json.loads(data.decode(errors="surrogateescape"))  # it takes half a character
    except (ValueError, RecursionError):
        said = words_in(data)
        reason = f"the answer is not JSON: {said!r}" if said else f"the answer is not JSON: {fault}"
        raise Retry("garbage", reason) from None
