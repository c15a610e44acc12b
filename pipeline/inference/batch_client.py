"""A client that asks through batches instead of single requests: by OpenAI's Batch API, or by files.

It is used like `Client`: `complete` returns one completion. Requests are gathered until `send` is called, and
a request waits until its batch has ended. One that failed in its batch goes into the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic_core import to_json

from pipeline.config.endpoints import Teacher
from pipeline.errors import Stopped, UserError
from pipeline.inference import batch_api
from pipeline.inference.batch_api import BatchApi
from pipeline.inference.batch_files import BatchFiles
from pipeline.inference.batch_ledger import Ledger, request_name
from pipeline.inference.batch_results import completion_of
from pipeline.inference.batch_runner import Batch, BatchRunner
from pipeline.inference.chat_request import chat_body
from pipeline.inference.credentials import Redactor, read_key
from pipeline.inference.http import ResponseLimits
from pipeline.inference.http_errors import (
    ErrorStatus,
    FatalError,
    FieldRefused,
    RequestFailed,
    Retry,
    classify,
)
from pipeline.inference.logprobs import NoLogprobs
from pipeline.inference.response import Completion
from pipeline.rows import Message, Sampling

READERS = 32  # results that are read at once


class BatchClient:
    """An async context manager that requests completions of one model by batches.

    `folder`: where it remembers its batches; `metadata`: stored with each batch, for people.
    """

    def __init__(
        self, endpoint: Teacher, folder: Path, metadata: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self.model, self._say = endpoint.model, say
        self._settings = endpoint.model_copy(update={"stream": False})
        self._redactor = Redactor(read_key(endpoint.api_key_env))
        self._api = BatchFiles(folder, self.model, say) if endpoint.by_files else BatchApi(endpoint)
        self._runner = BatchRunner(self._api, Ledger(folder), metadata, say)
        self.pool = self._runner.pool
        self.most = endpoint.batch_requests
        self.unsent = frozenset[str](endpoint.omit)
        self._gathered: Batch | None = None
        self._by_request: dict[str, list[Batch]] = {}
        self._reading = asyncio.Semaphore(READERS)
        self._tokens = (0, 0, 0)  # prompt tokens, completion tokens, responses that counted both
        self._accepted: frozenset[str] = frozenset()

    async def __aenter__(self) -> BatchClient:
        await self._api.__aenter__()
        for paid in self._runner.ledger.read():
            self._add(Batch(paid.unsent, paid.requests - paid.taken, paid=paid))
            self.unsent |= paid.unsent
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        left = await self._runner.stop()
        await self._api.__aexit__(*exc_info)
        if left:
            key = f' -H "Authorization: Bearer ${env}"' if (env := self._settings.api_key_env) else ""
            self._say(
                f"{self._api.name}: {', '.join(left)} still running; the same command collects the results. "
                f"To cancel one: curl -X POST {self._api.name}/batches/{left[0]}/cancel{key}"
            )

    async def check(self, say: Callable[[str], None] | None = None) -> None:
        """Raises UserError where batches cannot be asked."""
        await self._api.check(say or self._say)

    async def check_continuing(self, logprobs: bool) -> None:
        """Raises UserError if truncated responses cannot be continued by requests of a batch."""
        await self._api.check_continuing(logprobs)

    @property
    def waiting(self) -> int:
        """The calls of `complete` that can only go on when a batch has ended."""
        return self.pool.in_flight

    @property
    def gathered(self) -> int:
        """The requests that `send` would send."""
        return len(self._gathered.lines) if self._gathered else 0

    @property
    def mean_tokens(self) -> tuple[float, float] | None:
        """Prompt and completion tokens of a response, on average; None before any was counted."""
        prompt, completion, number = self._tokens
        return (prompt / number, completion / number) if number else None

    def send(self) -> None:
        """Sends the gathered requests as a batch of their own; if there are none, all is sent."""
        batch, self._gathered = self._gathered, None
        if batch:
            self._runner.start(batch)
        else:
            self._api.all_sent()

    def saved(self) -> None:
        """Forgets the results that were read; call it once all that was made of them is on disk."""
        for batch in self._runner.batches:
            if batch.paid and batch.results is not None:
                self._runner.ledger.saved(batch.paid, batch.read)

    async def complete(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        seed: int,
        *,
        logprobs: bool = False,
        before: Completion | None = None,
    ) -> Completion:
        """Returns one completion; raises what `Client.complete` raises."""
        fields = chat_body(self._settings, self.model, messages, sampling, seed, logprobs, before)
        candidates = 2 * logprobs
        self._runner.limits = ResponseLimits(batch_api.STALL, sampling.max_tokens, candidates)
        name, tried, failed = request_name(fields), set[Batch](), 0
        while True:
            batch = self._holding(name, tried) or self._gather(name, fields)
            tried.add(batch)
            await self._until_ready(batch)
            if batch.results is None:  # the server never created it
                continue
            try:
                return await self._read(batch, name, fields, logprobs, before)
            except FieldRefused as e:
                self._leave_out(e, batch, fields)
            except Retry as e:
                failed += 1
                if failed > self._settings.max_retries:
                    raise RequestFailed(self._redactor.clean(e.reason)) from None
                self.pool.retries[e.cause] += 1

    def _holding(self, name: str, tried: set[Batch]) -> Batch | None:
        """The newest batch with this request that was not tried; it is collected from now on."""
        for batch in reversed(self._by_request.get(name, ())):
            if batch not in tried:
                if batch.task is None and batch is not self._gathered:
                    self._runner.start(batch)
                return batch
        return None

    def _gather(self, name: str, fields: dict[str, object]) -> Batch:
        batch = self._gathered
        sent = {key: value for key, value in fields.items() if key not in (batch or self).unsent}
        request = {"custom_id": name, "method": "POST", "url": batch_api.ENDPOINT, "body": sent}
        line = to_json(request) + b"\n"
        if batch and (len(batch.lines) >= self.most or batch.size + len(line) > batch_api.MAX_BYTES):
            self.send()
            return self._gather(name, fields)
        if batch is None:
            batch = self._gathered = Batch(self.unsent)
            self._add(batch)
        assert isinstance(batch.requests, set)
        batch.requests.add(name)
        batch.lines.append(line)
        batch.size += len(line)
        self._by_request.setdefault(name, []).append(batch)
        return batch

    def _add(self, batch: Batch) -> None:
        self._runner.batches.append(batch)
        for name in batch.requests:
            self._by_request.setdefault(name, []).append(batch)

    async def _until_ready(self, batch: Batch) -> None:
        if not batch.ready.is_set():
            self.pool.in_flight += 1
            try:
                await batch.ready.wait()
            finally:
                self.pool.in_flight -= 1
        if batch.error:
            raise batch.error

    async def _read(
        self,
        batch: Batch,
        name: str,
        fields: dict[str, object],
        logprobs: bool,
        before: Completion | None,
    ) -> Completion:
        """Reads the request's result."""
        assert batch.results is not None
        assert batch.paid is not None
        async with self._reading:
            record = await asyncio.to_thread(batch.results.record, name)
        batch.read.add(name)
        try:
            if record is None:
                raise Retry("batch", f"batch {batch.paid.id} ended ({batch.paid.status}) without its result")
            completion = completion_of(record, logprobs, before, self.pool.record_lost)
        except ErrorStatus as e:
            raise self._refusal(e) from None
        except NoLogprobs as e:
            raise RequestFailed(f"the response cannot be used: {e}") from None
        except Retry:
            if batch.cancelled:
                raise Stopped(
                    f"batch {batch.paid.id} was cancelled; the same command asks for the rest"
                ) from None
            raise
        self._accepted |= frozenset(fields) - batch.unsent
        self._count(completion, before)
        clean = self._redactor.without_key
        reasoning = completion.reasoning and clean(completion.reasoning)
        return replace(
            completion, reasoning=reasoning, response=clean(completion.response), unsent=batch.unsent
        )

    def _count(self, completion: Completion, before: Completion | None) -> None:
        if None in (completion.prompt_tokens, completion.completion_tokens):
            return
        so_far = (before.prompt_tokens or 0, before.completion_tokens or 0) if before else (0, 0)
        prompt, response, number = self._tokens
        prompt += (completion.prompt_tokens or 0) - so_far[0]
        self._tokens = prompt, response + (completion.completion_tokens or 0) - so_far[1], number + 1

    def _refusal(self, error: ErrorStatus) -> Exception:
        refusal = classify(error, self._redactor)
        if not isinstance(refusal, FatalError):
            return refusal
        if refusal.account:
            return UserError(f"{self._api.name}: {refusal}")
        return RequestFailed(str(refusal), refused=True)  # if it is all of them, the scheduler stops

    def _leave_out(self, refusal: FieldRefused, batch: Batch, fields: dict[str, object]) -> None:
        """Leaves a field out of the batches to come, unless other requests had it accepted."""
        left = (name for name in refusal.fields if name in fields and name not in batch.unsent)
        name = next(left, None)
        if name is None or name in self._accepted:
            raise refusal
        if name not in self.unsent:
            self.unsent |= {name}
            self._say(f"{self.model}: {name} left out of requests from here on: the server refuses it")
