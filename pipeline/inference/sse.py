"""Splits the bytes of a response into JSON bodies: a single one, or a stream of server-sent events.

The first bytes tell which of the two it is, whatever the request and the headers say. Format of a stream:
https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from pipeline.inference.credentials import visible_text
from pipeline.inference.http_errors import Retry

HEAD = 2**16  # bytes within which a stream is recognized

_EVENT = re.compile(rb"(data|event|id|retry)?:")  # how a line of a stream begins
_BLANK = b"\xef\xbb\xbf \t\r\n"
_LONE_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # all but those that stand for an invalid byte


class BodyParser:
    """Takes bytes as they arrive and passes each JSON body to `take`.

    Raises Retry for bytes that are not JSON or were cut off, and whatever `take` raises.
    """

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._buffer = bytearray()
        self._streamed = False  # known to be a stream
        self._event: list[bytes] = []  # data lines of the current event
        self._done = False

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        if b"\n" in chunk and self._is_stream():
            end = self._buffer.rfind(b"\n") + 1
            self._read_lines(bytes(self._buffer[:end]))
            del self._buffer[:end]

    def end(self) -> bool:
        """Reads the rest. Returns whether it is complete: a single body, or a stream that sent [DONE]."""
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
                raise Retry("dropped", "the response was cut off in the middle of an event") from None


def repair_unicode(text: str) -> str:
    """Joins split characters, and replaces those that lack a half by U+FFFD.

    `_json` decodes invalid Unicode to surrogates: halves of UTF-16 pairs sent as escapes, and bytes of UTF-8
    split between two events. Both can be told apart only in the whole text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        valid = _LONE_SURROGATES.sub("\ufffd", paired)
        return valid.encode(errors="surrogateescape").decode(errors="replace")
    return text


def _json(data: bytes) -> Any:
    try:
        return from_json(data, cache_strings="keys")
    except ValueError as e:
        fault = e
    try:
        return json.loads(data.decode(errors="surrogateescape"))  # accepts half a character
    except (ValueError, RecursionError):
        text = visible_text(data)
        raise Retry("garbage", f"the response is not JSON: {repr(text) if text else fault}") from None
