"""Reads the result files of a batch: a line for each request, in any order, untrusted like any response."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.inference.http_errors import ErrorStatus, Retry
from pipeline.inference.response import Completion, CompletionReader


@dataclass
class Results:
    """Where the result of each request is: file, offset and length in bytes."""

    places: dict[str, tuple[Path, int, int]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)  # lines by what is wrong with them

    def record(self, request: str) -> dict[str, Any] | None:
        """Returns the line of a request; None if there is none."""
        if (place := self.places.get(request)) is None:
            return None
        path, offset, length = place
        with path.open("rb") as file:
            file.seek(offset)
            found = _parsed(file.read(length))
        return found if isinstance(found, dict) else None


def index(paths: Sequence[Path], requests: frozenset[str], longest: int) -> Results:
    """Finds the first result of each request; `longest`: maximum bytes of a line."""
    results = Results()
    for path in paths:
        for offset, line in _lines(path, longest):
            found = None if line is None else _parsed(line)
            request = found.get("custom_id") if isinstance(found, dict) else None
            if line is None or not isinstance(request, str):
                results.ignored["unreadable"] += 1
            elif request not in requests:
                results.ignored["answer no request of it"] += 1
            elif request in results.places:
                results.ignored["repeated"] += 1
            else:
                results.places[request] = (path, offset, len(line))
    return results


def completion_of(
    record: dict[str, Any],
    logprobs: bool,
    before: Completion | None,
    lost: Callable[[int, int], None] = lambda prompt, completion: None,
) -> Completion:
    """Reads a result as the response to a request would be read.

    `lost` is called with the prompt and completion tokens of a response that cannot be used.

    Raises ErrorStatus for the error of a request, and whatever CompletionReader raises.
    """
    response = record.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if status == 200:
        reader = CompletionReader(logprobs)
        try:
            reader.feed(json.dumps(body).encode())
            return reader.completion(before)
        except Exception:
            lost(*reader.counted)
            raise
    if isinstance(status, int) and 400 <= status < 600:
        raise ErrorStatus(status, body or record.get("error"))  # vLLM's run-batch has no body for an error
    raise Retry("batch", f"the batch has no response: {json.dumps(record.get('error'))[:300]}")


def _lines(path: Path, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Yields the offset and the text of each line; None in place of a line that is too long."""
    with path.open("rb") as file:
        while True:
            offset = file.tell()
            line = file.readline(longest)
            if not line:
                return
            too_long = len(line) == longest and not line.endswith(b"\n")
            while too_long and line and not line.endswith(b"\n"):
                line = file.readline(longest)
            if too_long or line.strip():
                yield offset, None if too_long else line


def _parsed(line: bytes) -> Any:
    """Parses a line as response bodies are parsed, with halves of characters; None if it is not JSON."""
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        pass
    try:
        return json.loads(line.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
