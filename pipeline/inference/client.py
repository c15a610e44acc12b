"""The client for every model: vLLM, hosted APIs, any server that speaks OpenAI's chat protocol.

Decides when a request is sent, to which endpoint, and whether it is retried: errors that may be transient
are, and overload is retried for longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from pipeline.config.endpoints import Endpoint
from pipeline.errors import Stopped, UserError
from pipeline.inference.chat_request import Request, chat_request
from pipeline.inference.concurrency import INITIAL_LIMIT, EndpointPool, PooledEndpoint, Slot
from pipeline.inference.continuation import Fetch, as_completion, needs_completions
from pipeline.inference.credentials import Redactor, check_base_url, read_key
from pipeline.inference.http import COMPLETIONS, ResponseLimits, Transport
from pipeline.inference.http_errors import (
    ErrorStatus,
    FatalError,
    FieldRefused,
    RequestFailed,
    Retry,
    classify,
)
from pipeline.inference.logprobs import NoLogprobs
from pipeline.inference.model_list import ModelListError, find_model
from pipeline.inference.prompt_logprobs import prompt_request
from pipeline.inference.rate_limit import RateLimiter
from pipeline.inference.response import Completion, CompletionReader
from pipeline.inference.retry import RetryBudget, backoff
from pipeline.rows import Message, Sampling


class Client:
    """An async context manager that requests completions of one model at one or several endpoints.

    `base_urls` and `model` override the endpoint's, because a server started here picks its own port and may
    serve the model under another name. `concurrency`: maximum requests in flight over all endpoints.
    `own_server`: started here; it queues what it cannot do at once, so it gets full concurrency immediately.
    `answered`: it gave responses in an earlier run, so a 403 is about one request, as from gateways that
    moderate. Raises UserError for a URL or key that cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        base_urls: Sequence[str],
        model: str,
        *,
        concurrency: int,
        own_server: bool = False,
        answered: bool = False,
    ) -> None:
        self.model = model
        self._settings = endpoint
        self._redactor = Redactor(read_key(endpoint.api_key_env))
        self._own_server, self._answered = own_server, answered
        initial = concurrency if own_server else INITIAL_LIMIT
        endpoints = [PooledEndpoint(check_base_url(url), concurrency, initial) for url in base_urls]
        self.pool = EndpointPool(endpoints, concurrency)
        self._transports = {
            endpoint: Transport(url, self._redactor.key)
            for endpoint, url in zip(endpoints, base_urls, strict=True)
        }
        self._stack = AsyncExitStack()
        self._rate_limiter = RateLimiter(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._failing_since: float | None = None  # the first failure since the last good response
        self._responses = 0  # good ones so far
        self._capped = False  # told that a Retry-After is too long
        self._gave_logprobs = False
        self._by_completions = endpoint.continue_by == "completions"
        self.unsent = frozenset[str](endpoint.omit)  # fields left out of every request
        self._accepted: frozenset[str] = frozenset()  # fields of requests that got a good response
        self._say: Callable[[str], None] = lambda _text: None

    async def __aenter__(self) -> Client:
        for transport in self._transports.values():
            await self._stack.enter_async_context(transport)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.pool.close()
        await self._stack.aclose()

    async def check(self, say: Callable[[str], None] | None = None) -> None:
        """Lists the models of each endpoint, and starts the cooldown of endpoints that cannot be used.

        Raises UserError unless one endpoint is reachable and accepts the key.
        """
        self._say, endpoints = say or self._say, self.pool.endpoints
        problems = await asyncio.gather(*map(self._problem, endpoints))
        if all(problems):
            raise UserError(self._cannot_use(endpoints[0], problems[0] or ""))
        for endpoint, problem in zip(endpoints, problems, strict=True):
            if problem:
                self._set_aside(endpoint, problem)

    async def check_continuing(self, logprobs: bool) -> None:
        """Finds out how truncated responses are continued. Raises UserError if they cannot be."""
        endpoint = min(self.pool.endpoints, key=lambda endpoint: endpoint.cooldown_until)
        found = await needs_completions(self._fetch(endpoint), self.model, self._settings, logprobs)
        if found is None and self._by_completions:
            raise UserError(f'{endpoint.name}: continue_by = "completions" needs /tokenize, as vLLM has it')
        if found is None:
            self._say(f"{endpoint.name}: cannot verify that it continues truncated responses faithfully")
        self._by_completions |= found is True

    def _fetch(self, endpoint: PooledEndpoint) -> Fetch:
        limits = ResponseLimits(self._settings.stall_timeout, 1)
        return lambda path, body: self._transports[endpoint].fetch(path, limits, body)

    async def _problem(self, endpoint: PooledEndpoint) -> str | None:
        """Returns why the endpoint cannot be used; a missing model is only reported."""
        transport, retries = self._transports[endpoint], self._settings.max_retries
        try:
            hint = await find_model(self.model, transport, self._redactor, retries)
        except ModelListError as e:
            return str(e)
        if hint:
            self._say(f"{endpoint.name}: {hint}; its first response will tell whether it has {self.model!r}")
        return None

    async def complete(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        seed: int,
        *,
        logprobs: bool = False,
        before: Completion | None = None,
    ) -> Completion:
        """Returns one completion, or the truncated completion `before` joined with its continuation.

        `logprobs`: whether to keep those of the sampled tokens. An optional field that the server refuses is
        left out; of this request alone if other requests had it accepted. Raises RequestFailed if this
        request has no response, UserError if none would have one, Stopped if no endpoint gave a good response
        for `unavailable_timeout` seconds.
        """
        request = chat_request(self._settings, self.model, messages, sampling, seed, logprobs, before)
        return await self._complete(request)

    async def read(self, tokens: Sequence[int], last: int, k: int) -> Completion:
        """Returns how the model reads the last tokens of a prompt. Raises what complete() raises."""
        return await self._complete(prompt_request(self._settings, self.model, tokens, last, k))

    async def _complete(self, request: Request) -> Completion:
        request = replace(request, limits=replace(request.limits, own_server=self._own_server))
        fields, unsent = request.fields, self.unsent
        budget = RetryBudget(self._settings.max_retries, self._responses)
        while True:
            slot = await self.pool.acquire()
            try:
                return await self._attempt(slot, request, unsent)
            except FieldRefused as e:
                field = next((name for name in e.fields if name in fields and name not in unsent), None)
                if field is None:
                    raise
                unsent |= self.unsent | {field}
                continue
            except Retry as e:
                failure = e
            finally:
                self.pool.release(slot)
            budget.fail(failure.counts, self._responses)
            if budget.spent:
                raise RequestFailed(self._redactor.clean(failure.reason))
            self.pool.retries[failure.cause] += 1
            await self._back_off(failure, budget.failed)

    async def _attempt(self, slot: Slot, request: Request, unsent: frozenset[str]) -> Completion:
        """Sends the request once, and records the outcome with the endpoint and the rate limiter."""
        endpoint, clock, max_tokens = slot.endpoint, asyncio.get_running_loop().time, request.limits.tokens
        while wait := self._rate_limiter.wait(max_tokens, clock()):
            await asyncio.sleep(min(wait, 1.0))  # responses shorter than estimated shorten the wait
        estimate = self._rate_limiter.take(max_tokens, clock())
        started, reader = clock(), request.reader()
        self.pool.requests += 1
        try:
            completion = await self._send(slot, request.body(unsent), request, reader)
        except Exception as e:
            self.pool.record_lost(*reader.counted)
            if isinstance(e, Retry):
                self._record_failure(endpoint, e, started, clock())
            elif isinstance(e, RequestFailed):
                endpoint.record_response()
            raise
        finally:
            self._rate_limiter.reconcile(estimate, reader.tokens, clock())
        endpoint.record_success()
        self._failing_since = None
        self._responses += 1
        self._gave_logprobs |= (completion.logprobs or completion.prompt_logprobs) is not None
        self._learn_unsent(unsent, frozenset(request.fields))
        clean = self._redactor.without_key
        reasoning = completion.reasoning and clean(completion.reasoning)
        return replace(completion, reasoning=reasoning, response=clean(completion.response), unsent=unsent)

    async def _send(self, slot: Slot, body: bytes, request: Request, reader: CompletionReader) -> Completion:
        endpoint, before, path = slot.endpoint, request.before, request.path
        try:
            if before and self._by_completions:
                body, path = await as_completion(self._fetch(endpoint), body, before), COMPLETIONS
            first_byte = partial(self.pool.record_first_byte, slot)
            await self._transports[endpoint].send(body, reader, request.limits, first_byte, path)
            return reader.completion(before)
        except ErrorStatus as e:
            raise self._refusal(e, endpoint, before is not None, reader.began) from None
        except NoLogprobs as e:
            if self._gave_logprobs:
                raise RequestFailed(f"the response cannot be used: {e}") from None
            raise UserError(f"{endpoint.name}: model {self.model!r}: {e}; vLLM gives them") from None

    def _learn_unsent(self, unsent: frozenset[str], fields: frozenset[str]) -> None:
        """Leaves fields out of all further requests if only a request without them got a response."""
        self._accepted |= fields - unsent
        if new := unsent - self.unsent - self._accepted:
            self.unsent |= new
            names = ", ".join(sorted(new))
            self._say(f"{self.model}: {names} left out of requests from here on: the server refuses it")

    def _refusal(
        self, error: ErrorStatus, endpoint: PooledEndpoint, continuing: bool, began: bool
    ) -> Exception:
        """Returns the exception for a refusal of this attempt, this request, this endpoint or all of them."""
        refusal = classify(error, self._redactor, began)
        if not isinstance(refusal, FatalError):
            return refusal
        # Where the endpoint gave good responses, or the request continues a message, the refusal need not
        # concern other requests. Nor is it final: a key or an address can be repaired.
        reason = str(refusal)
        only_this = continuing or endpoint.answered or (self._answered and error.status == 403)
        if only_this and not refusal.account:
            return RequestFailed(reason)
        endpoint.refusal = reason
        if all(other.refusal for other in self.pool.endpoints):
            return UserError(self._cannot_use(endpoint, reason))
        self._set_aside(endpoint, reason)
        return Retry("refused", reason, counts=False, refused=True)

    def _set_aside(self, endpoint: PooledEndpoint, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if endpoint.cooldown_until <= now:
            self._say(f"{endpoint.name} is in cooldown: {reason}")
            endpoint.start_cooldown(now)

    def _record_failure(self, endpoint: PooledEndpoint, failure: Retry, started: float, now: float) -> None:
        if self._failing_since is None:
            self._failing_since = now
        if failure.busy:
            endpoint.concurrency.overloaded()
        if failure.counts or failure.refused:
            endpoint.record_failure(started, now, failure.refused)
        else:
            endpoint.record_response()

    async def _back_off(self, failure: Retry, failed: int) -> None:
        """Waits until the next attempt. Raises Stopped or RequestFailed after unavailable_timeout."""
        # After a refused connection the endpoint is in cooldown; others need no backoff.
        wait = 0.0 if failure.refused else max(backoff(failed - 1), failure.after or 0.0)
        settings, timeout = self._settings, self._settings.unavailable_timeout
        if failure.cause == "stalled":  # a request that stalls at each attempt has to fail alone
            timeout = max(timeout, settings.stall_timeout * (settings.max_retries + 1))
        if wait > timeout and not self._capped:
            self._capped = True
            self._say(f"a server asks to wait {wait:,.0f} s (Retry-After): retrying after {timeout:g} s")
        clock = asyncio.get_running_loop().time
        until = clock() + min(wait, timeout)
        while True:
            left = self._time_left(clock(), failure, timeout, failed)
            if (rest := until - clock()) <= 0:
                return
            await asyncio.sleep(min(rest, left))

    def _time_left(self, now: float, failure: Retry, timeout: float, failed: int) -> float:
        if self._failing_since is None:
            return timeout
        heard = max(transport.heard_at for transport in self._transports.values())
        self._failing_since = max(self._failing_since, heard)  # text of an unfinished response counts too
        left = self._failing_since + timeout - now
        if left > 0:
            return left
        names = ", ".join(endpoint.name for endpoint in self.pool.endpoints)
        why = f"{names}: no good response for {timeout:g} s; the last: {self._redactor.clean(failure.reason)}"
        if failure.refused or not (self._answered or self._responses):
            raise Stopped(why)
        # The server is up and answered others, so it may be this request that it cannot answer. If it is the
        # server, so many requests fail soon that the run stops.
        if failed > self._settings.max_retries:
            raise RequestFailed(why)
        return timeout

    def _cannot_use(self, endpoint: PooledEndpoint, reason: str) -> str:
        env = self._settings.api_key_env
        key = f"key from the environment variable {env}" if env else "no api_key_env is set"
        return f"{endpoint.name}: cannot use model {self.model!r} ({key}): {reason}"
