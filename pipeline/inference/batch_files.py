"""Batches without a server: files of requests that a program answers with a file, such as `vllm run-batch`.

vLLM writes its file when all requests are done: a line for each, also for one that failed.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import Stopped, UserError
from pipeline.inference.batch_api import RemoteBatch
from pipeline.inference.batch_ledger import requests_of, results_path
from pipeline.inference.batch_results import index
from pipeline.inference.http import ResponseLimits


class BatchFiles:
    """In place of a BatchApi: writes files of requests, and reads what the user had them answered with.

    Nothing is said of a file before the last one of a command is written, so that each has its line.
    """

    def __init__(self, folder: Path, model: str, say: Callable[[str], None]) -> None:
        self.name, self._model, self._say = str(folder), model, say
        self._all_sent = asyncio.Event()

    async def __aenter__(self) -> BatchFiles:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def check(self, say: Callable[[str], None]) -> None:
        pass

    async def check_continuing(self, logprobs: bool) -> None:
        """Raises UserError: without a server nothing tells whether a response is continued faithfully."""
        raise UserError('batch = "file" cannot continue responses; set max_continuations = 0')

    async def upload(self, lines: list[bytes], folder: Path) -> str:
        """Writes a file of requests, under a new name: requests that failed may all be asked again."""
        self._all_sent.clear()
        file = secrets.token_hex(8)
        await asyncio.to_thread(write_atomic, requests_of(results_path(folder, file)), b"".join(lines))
        return file

    def all_sent(self) -> None:
        """Hears that no request will follow before a file is answered."""
        self._all_sent.set()

    async def create(self, file: str, metadata: Mapping[str, str], not_among: frozenset[str]) -> RemoteBatch:
        return await self.get(file)

    async def find(self, file: str, not_among: frozenset[str] = frozenset()) -> RemoteBatch:
        return await self.get(file)

    async def get(self, batch: str) -> RemoteBatch:
        return RemoteBatch(batch, "answered", batch, (batch,), "", too_much_at_once=False)

    async def download(self, file: str, requests: frozenset[str], path: Path, limits: ResponseLimits) -> None:
        """Checks the file of results. Raises Stopped while it is not whole, UserError for a wrong one."""
        await self._all_sent.wait()
        path = path.absolute()
        given = requests_of(path)
        if not path.exists():
            command = ["vllm", "run-batch", "-i", str(given), "-o", str(path), "--model", self._model]
            self._say(f"to answer {len(requests):,} requests: {shlex.join(command)}")
            raise Stopped(f"{self.name}: requests wait for their results; the same command collects them")
        found = await asyncio.to_thread(index, [path], requests, limits.bytes)
        if not found.places:
            raise UserError(f"{path} answers none of the requests in {given.name}: it is of another file")
        if missing := len(requests) - len(found.places):
            raise Stopped(
                f"{path} lacks {missing:,} of {len(requests):,} results: wait until what writes it "
                "has ended, or delete it and run that again"
            )
