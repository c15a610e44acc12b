"""OpenAI's Batch API: uploads a file of requests, creates a batch of it, follows it, downloads results.

https://platform.openai.com/docs/guides/batch. Creating a batch costs money, so it is repeated only after the
server's list of batches shows that the last attempt created none.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

from pydantic_core import from_json, to_json

from pipeline.config.endpoints import Endpoint
from pipeline.engine.atomic_files import new_file
from pipeline.engine.owner import this_owner
from pipeline.errors import Stopped, UserError
from pipeline.inference.continuation import needs_completions
from pipeline.inference.credentials import Redactor, check_base_url, read_key
from pipeline.inference.http import BATCHES, FILES, JSON, Buffer, ResponseLimits, Sink, Transport
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry, classify
from pipeline.inference.model_list import ModelListError, find_model
from pipeline.inference.retry import backoff

T = TypeVar("T")
MAX_BYTES = 200_000_000  # of one file
ENDPOINT = "/v1/chat/completions"  # what the requests of a file are for
ENDED = frozenset({"completed", "failed", "expired", "cancelled", "answered"})  # last: of batch_files.py
STALL = 1800.0  # seconds that sending a large file, or waiting for one, may take without progress
STALE = 86_400  # seconds after which the file of an upload was left by a process that was killed
SETTLES = 5.0  # seconds after which a new batch is in the server's list
PAGE, MAX_PAGES = 100, 100  # of the list of batches
MAX_BODY = 2**24  # bytes of a response that is no file
BOUNDARY = "retort-2f1c9a7b6d3e4850"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
_HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="retort.jsonl"\r\n'
    "Content-Type: application/jsonl\r\n\r\n"
).encode()
_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
_UNSUPPORTED = frozenset({404, 405, 501})


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as the server describes it."""

    id: str
    status: str  # "validating", "in_progress", "completed", "failed", ...
    input_file: str | None
    files: tuple[str, ...]  # ids of the files with results and with errors, as far as there are any
    error: str  # the server's words, on one line; "" if it gave none
    too_much_at_once: bool  # refused because other batches of the account have not ended


class BatchApi:
    """The calls, each retried while the server does not answer. An async context manager.

    Every method raises UserError if the server refuses, and Stopped if it gave no good response for
    `unavailable_timeout` seconds.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        (url,) = endpoint.base_urls
        self.name, self._endpoint, self._timeout = check_base_url(url), endpoint, endpoint.unavailable_timeout
        self._redactor = Redactor(read_key(endpoint.api_key_env))
        self._transport = Transport(url, self._redactor.key)

    async def __aenter__(self) -> BatchApi:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)

    async def check(self, say: Callable[[str], None]) -> None:
        """Raises UserError unless the server takes the key and has batches."""
        model = self._endpoint.model
        try:
            hint = await find_model(model, self._transport, self._redactor, self._endpoint.max_retries)
        except ModelListError as e:
            raise UserError(f"{self.name}: cannot use model {model!r}: {e}") from None
        if hint:
            say(f"{self.name}: {hint}; its first batch will tell whether it has {model!r}")
        await self._call(f"{BATCHES}?limit=1")

    async def check_continuing(self, logprobs: bool) -> None:
        """Raises UserError if truncated responses cannot be continued by requests of a batch."""
        limits = ResponseLimits(self._endpoint.stall_timeout, 1)

        async def fetch(path: str, body: bytes) -> bytes:
            return await self._transport.fetch(path, limits, body)

        if await needs_completions(fetch, self._endpoint.model, self._endpoint, logprobs):
            raise UserError(f"{self.name}: batch = true cannot continue responses; set max_continuations = 0")

    async def upload(self, lines: list[bytes], folder: Path) -> str:
        """Sends requests, one a line, by a file in the folder; returns the server's id of it."""
        for left in folder.glob(".*.upload"):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink(missing_ok=True)
        form = folder / f".{this_owner()}-{secrets.token_hex(4)}.upload"
        try:
            await asyncio.to_thread(_write_form, form, lines)
            return _id_in(await self._call(FILES, form, CONTENT_TYPE), "id", self.name)
        finally:
            form.unlink(missing_ok=True)

    def all_sent(self) -> None:
        """Hears that no request will follow before a batch has ended; the server needs no such word."""

    async def create(self, file: str, metadata: Mapping[str, str], not_among: frozenset[str]) -> RemoteBatch:
        """Creates a batch of an uploaded file, once; `not_among`: ids of earlier batches of the same file."""
        body = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        sent = to_json(body | {"metadata": dict(metadata)})
        clock, attempt = asyncio.get_running_loop().time, 0
        began = clock()
        while True:
            try:
                return self._remote(await self._once(BATCHES, sent, JSON))
            except Retry as e:
                await self._wait(e, attempt, began)
                attempt += 1
                if found := await self.find(file, not_among):
                    return found

    async def find(self, file: str, not_among: frozenset[str] = frozenset()) -> RemoteBatch | None:
        """Returns the batch that was created of a file, also if its creation was never answered."""
        for wait in (0.0, SETTLES):
            await asyncio.sleep(wait)
            after = ""
            for _ in range(MAX_PAGES):
                page = await self._call(f"{BATCHES}?limit={PAGE}{after}")
                batches = [self._remote(each) for each in _objects(page.get("data"))]
                for batch in batches:
                    if batch.input_file == file and batch.id not in not_among:
                        return batch
                if not batches or not page.get("has_more"):
                    break
                after = f"&after={quote(batches[-1].id)}"
        return None

    async def get(self, batch: str) -> RemoteBatch:
        return self._remote(await self._call(f"{BATCHES}/{batch}"))

    async def download(self, file: str, requests: frozenset[str], path: Path, limits: ResponseLimits) -> None:
        """Stores the content of a file of the server, the results of these requests, unless it is there."""
        if path.exists():
            return
        with new_file(path) as temporary:
            await self._retried(lambda: self._store(file, temporary, limits))

    async def _store(self, file: str, path: Path, limits: ResponseLimits) -> None:
        with path.open("wb") as out:
            await self._send(None, _Writer(out), limits, f"{FILES}/{file}/content", JSON)

    async def _call(self, path: str, body: Path | None = None, content_type: str = JSON) -> dict[str, Any]:
        return await self._retried(lambda: self._once(path, body, content_type))

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        clock, attempt = asyncio.get_running_loop().time, 0
        began = clock()
        while True:
            try:
                return await call()
            except Retry as e:
                await self._wait(e, attempt, began)
                attempt += 1

    async def _wait(self, failure: Retry, attempt: int, began: float) -> None:
        left = began + self._timeout - asyncio.get_running_loop().time()
        if left <= 0:
            reason = self._redactor.clean(failure.reason)
            raise Stopped(f"{self.name}: no good response for {self._timeout:g} s; the last: {reason}")
        await asyncio.sleep(min(left, max(backoff(attempt), failure.after or 0.0)))

    async def _once(self, path: str, body: bytes | Path | None, content_type: str) -> dict[str, Any]:
        answer = Buffer()
        await self._send(body, answer, ResponseLimits(STALL, overhead=MAX_BODY), path, content_type)
        try:
            found = from_json(bytes(answer.body))
        except ValueError:
            raise Retry("garbage", "the response is not JSON") from None
        if not isinstance(found, dict):
            raise Retry("garbage", "the response is not an object")
        return found

    async def _send(
        self, body: bytes | Path | None, sink: Sink, limits: ResponseLimits, path: str, content_type: str
    ) -> None:
        try:
            await self._transport.send(body, sink, limits, path=path, content_type=content_type)
        except ErrorStatus as e:
            refusal = classify(e, self._redactor)
            if isinstance(refusal, Retry):
                raise refusal from None
            hint = "; remove batch = true, or use a server with OpenAI's Batch API"
            raise UserError(
                f"{self.name}{path.partition('?')[0]}: {refusal}{hint if e.status in _UNSUPPORTED else ''}"
            ) from None
        except RequestFailed as e:
            raise Stopped(f"{self.name}{path.partition('?')[0]}: {e}") from None

    def _remote(self, fields: dict[str, Any]) -> RemoteBatch:
        errors = fields.get("errors")
        said = _objects(errors.get("data")) if isinstance(errors, dict) else []
        words = "; ".join(str(each.get("message") or each.get("code") or "") for each in said[:3])
        names = ("output_file_id", "error_file_id")
        return RemoteBatch(
            _id_in(fields, "id", self.name),
            str(fields.get("status")),
            fields.get("input_file_id"),
            tuple(_id_in(fields, name, self.name) for name in names if fields.get(name)),
            self._redactor.clean(words),
            any(each.get("code") == "token_limit_exceeded" for each in said),
        )


def _write_form(path: Path, lines: list[bytes]) -> None:
    """Writes the body of an upload: a form with the requests, one a line."""
    with path.open("wb") as file:
        file.write(_HEAD)
        file.writelines(lines)
        file.write(_TAIL)


class _Writer:
    """Writes a response to a file; each chunk counts as progress."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.pieces = file, 0

    def feed(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.pieces += 1


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _id_in(fields: dict[str, Any], name: str, server: str) -> str:
    """Returns an id that can be part of a URL. Raises Stopped for any other."""
    value = fields.get(name)
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise Stopped(f"{server}: the Batch API sent no usable {name}")
