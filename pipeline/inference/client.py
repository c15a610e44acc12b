"""The one client for every model: vLLM, hosted APIs, any server that speaks OpenAI's chat protocol.

It says how often and when a request is tried: a second time only what may pass then, more patiently where the
server has too much to do. Leaves out how a request travels (transport.py), what its answer says
(replies.py) or its refusal means (refusals.py), how much is asked at once and at which address (pacing.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from pydantic_core import to_json

from pipeline.config.endpoints import Endpoint
from pipeline.errors import Stopped, UserError
from pipeline.inference.concurrency import FIRST_LEVEL, EndpointPool, PooledEndpoint, Slot, Tally
from pipeline.inference.credentials import (
    ModelListError,
    Redactor,
    check_address,
    list_models,
    nearest,
    read_key,
)
from pipeline.inference.http import CHAT, COMPLETIONS, Bounds, ErrorStatus, RequestFailed, Retry, Transport
from pipeline.inference.http_errors import FatalError, FieldRefused, judge
from pipeline.inference.logprobs import NoLogprobs
from pipeline.inference.rate_limit import RateLimiter, Tries
from pipeline.inference.request_body import Fetch, as_completion, chat_body, must_complete
from pipeline.inference.response import Completion, Reader
from pipeline.rows import Message, Sampling


class Client:
    """Asks one model at one or several addresses; an async context manager.

    The addresses and `model` are given beside the endpoint because a server started here picks its own port
    and may know the model under another name. `concurrency`: requests in flight over all addresses, at most;
    `ours`: a server started here, which queues what it cannot do at once and is given all of it at the start;
    `answered`: it did in an earlier try, so a 403 is about its own request, as of gateways that moderate.
    UserError for an address or key that cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        base_urls: Sequence[str],
        model: str,
        *,
        concurrency: int,
        ours: bool = False,
        answered: bool = False,
    ) -> None:
        self.model = model
        self._endpoint = endpoint
        self._cleaner = Redactor(read_key(endpoint.api_key_env))
        self._urls = list(base_urls)
        self._ours, self._answered = ours, answered
        first = concurrency if ours else FIRST_LEVEL
        places = [PooledEndpoint(check_address(url), concurrency, first) for url in self._urls]
        self._places = EndpointPool(places, concurrency)
        self.tally = Tally(self._places)
        self._transports = {
            place: Transport(url, self._cleaner.key) for place, url in zip(places, self._urls, strict=True)
        }
        self._quota = RateLimiter(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._bad_since: float | None = None  # the first failure since the last good answer
        self._good = 0  # answers so far
        self._capped = False  # a wait that a server asked for, and that was said
        self._gave_logprobs = False
        self._by_completions = endpoint.continue_by == "completions"  # that answers are continued
        self.unsent = frozenset[str](endpoint.omit)  # fields that are left out of every request
        self._taken: frozenset[str] = frozenset()  # fields that a good answer was asked with
        self._say: Callable[[str], None] = lambda _text: None

    async def __aenter__(self) -> Client:
        for transport in self._transports.values():
            transport.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._places.close()
        for transport in self._transports.values():
            await transport.close()

    async def check(self, say: Callable[[str], None] | None = None) -> None:
        """Ask each address for its models, and set those aside that cannot be used, saying so.

        A list without our model is a hint and no more: many servers take names that they do not list.
        UserError when no address can be reached and takes our key.
        """
        self._say = say or self._say
        flaws = await asyncio.gather(*map(self._flaw, self._urls))
        if all(flaws):
            raise UserError(self._refusal(self._places.places[0], flaws[0] or ""))
        for place, flaw in zip(self._places.places, flaws, strict=True):
            if flaw:
                self._set_aside(place, flaw)

    async def check_continuing(self, logprobs: int | None) -> None:
        """Find out how an answer that was cut can be continued as it began. UserError where it cannot."""
        place = min(self._places.places, key=lambda place: place.cooldown_until)
        found = await must_complete(self._fetch(place), self.model, self._endpoint, logprobs)
        if found is None and self._by_completions:
            raise UserError(f'{place.name}: continue_by = "completions" needs /tokenize, as vLLM has it')
        if found is None:
            self._say(f"{place.name}: whether it renders cut answers as they were is not known")
        self._by_completions |= found is True

    def _fetch(self, place: PooledEndpoint) -> Fetch:
        return partial(self._transports[place].fetch, bounds=Bounds(self._endpoint.stall_timeout, 1))

    async def _flaw(self, base_url: str) -> str | None:
        try:
            known = await list_models(base_url, self._cleaner, self._endpoint.max_retries)
        except ModelListError as e:
            if e.useless:
                return str(e)
            hint = str(e)
        else:
            # Some servers list "models/NAME" and take "NAME".
            if known is None or any(f"/{name}".endswith(f"/{self.model}") for name in known):
                return None
            hint = f"it lists {self._cleaner.clean(nearest(self.model, known))}"
        where = check_address(base_url)
        self._say(f"{where}: {hint}; whether it has {self.model!r} its first answer will tell")
        return None

    async def complete(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        seed: int,
        *,
        logprobs: int | None = None,
        so_far: Completion | None = None,
    ) -> Completion:
        """One completion, or `so_far` continued from where it was cut, the two joined.

        `logprobs`: how many of the likeliest tokens to keep at each position. Raises RequestFailed when this
        request has no answer, UserError when none would have one, Stopped when nothing good came from any
        address for `unavailable_timeout` seconds. A field that the request can do without and the server refuses is left
        out; of this request alone where it was taken of others.
        """
        whole = chat_body(self._endpoint, self.model, messages, sampling, seed, logprobs, so_far)
        unsent = self.unsent
        candidates = 0 if logprobs is None else logprobs + 2
        bounds = Bounds(self._endpoint.stall_timeout, sampling.max_tokens, candidates, self._ours)
        tries = Tries(self._endpoint.max_retries, self._good)
        while True:
            slot = await self._places.take()
            body = to_json({name: value for name, value in whole.items() if name not in unsent})
            try:
                completion = await self._try(slot, body, bounds, logprobs, so_far)
                self._learn(unsent, frozenset(whole))
                clean = self._cleaner.without_key
                thought = completion.reasoning and clean(completion.reasoning)
                return replace(
                    completion, reasoning=thought, response=clean(completion.response), unsent=unsent
                )
            except FieldRefused as e:
                field = next((name for name in e.fields if name in whole and name not in unsent), None)
                if field is None:
                    raise
                unsent |= self.unsent | {field}
                continue
            except Retry as e:
                failure = e
            finally:
                self._places.give(slot)
            tries.fail(failure.counts, self._good)
            if tries.spent:
                raise RequestFailed(self._cleaner.clean(failure.reason))
            self.tally.retries[failure.word] += 1
            await self._wait(failure, tries)

    def _learn(self, unsent: frozenset[str], fields: frozenset[str]) -> None:
        """A good answer came without these of the fields: so it does of every other request."""
        self._taken |= fields - unsent
        if new := unsent - self.unsent - self._taken:
            self.unsent |= new
            names = ", ".join(sorted(new))
            self._say(f"{self.model}: {names} left out of requests from here on: the server does not take it")

    async def _try(
        self, slot: Slot, body: bytes, bounds: Bounds, logprobs: int | None, so_far: Completion | None
    ) -> Completion:
        """Send it once, and tell the place and the quota how it went."""
        place, clock = slot.place, asyncio.get_running_loop().time
        while wait := self._quota.wait(bounds.tokens, clock()):
            await asyncio.sleep(min(wait, 1.0))  # answers that are shorter than thought make it shorter
        guess = self._quota.take(bounds.tokens, clock())
        started, reader = clock(), Reader(logprobs)
        self.tally.requests += 1
        try:
            completion = await self._answer(slot, body, bounds, reader, so_far)
        except Retry as e:
            self._note(place, e, started, clock())
            raise
        except RequestFailed:
            place.record_response()
            raise
        finally:
            self._quota.settle(guess, reader.tokens, clock())
        # From here on a refusal is about its own request: some gateways moderate with 403.
        place.record_success()
        self._bad_since = None
        self._good += 1
        self._gave_logprobs |= completion.logprobs is not None
        return completion

    async def _answer(
        self, slot: Slot, body: bytes, bounds: Bounds, reader: Reader, so_far: Completion | None
    ) -> Completion:
        place, path = slot.place, CHAT
        try:
            if so_far and self._by_completions:
                body, path = await as_completion(self._fetch(place), body, so_far), COMPLETIONS
            first = partial(self._places.began, slot)
            await self._transports[place].post(body, reader, bounds, first, path)
            return reader.completion(so_far)
        except ErrorStatus as e:
            raise self._judged(e, place, so_far is not None, reader.began) from None
        except NoLogprobs as e:
            if self._gave_logprobs:
                raise RequestFailed(f"the answer cannot be used for generate.logprobs: {e}") from None
            why = f"{e}, which generate.logprobs needs; vLLM gives them"
            raise UserError(f"{place.name}: model {self.model!r}: {why}") from None

    def _judged(self, error: ErrorStatus, place: PooledEndpoint, continuing: bool, began: bool) -> Exception:
        """What a refusal means: for this try, for this request, for its address or for all of them."""
        refusal = judge(error, self._cleaner, began)
        if not isinstance(refusal, FatalError):
            return refusal
        # Where it answered well before, or is asked to go on with a message, it need not be about all others;
        # but nor for ever about this one: a key or an address can be put right.
        reason = str(refusal)
        own = continuing or place.answered or (self._answered and error.status == 403)
        if own and not refusal.account:
            return RequestFailed(reason)
        place.refusal = reason
        if all(other.refusal for other in self._places.places):
            return UserError(self._refusal(place, reason))
        self._set_aside(place, reason)
        return Retry("refused", reason, counts=False, refused=True)

    def _set_aside(self, place: PooledEndpoint, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if place.cooldown_until <= now:
            self._say(f"{place.name} is set aside: {reason}")
            place.start_cooldown(now)

    def _note(self, place: PooledEndpoint, failure: Retry, started: float, now: float) -> None:
        self._bad_since = now if self._bad_since is None else self._bad_since
        if failure.busy:
            place.level.overloaded()
        if failure.counts or failure.refused:
            place.failed(started, now, failure.refused)
        else:
            place.record_response()

    async def _wait(self, failure: Retry, tries: Tries) -> None:
        """Until the next try. Raises Stopped when nothing good came for too long, RequestFailed when that is
        known of this request alone."""
        # After a refused connection its address is set aside; others need no rest.
        wait = 0.0 if failure.refused else max(tries.waits, failure.after or 0.0)
        unavailable_timeout = self._endpoint.unavailable_timeout
        if failure.word == "stalled":  # a request that stalls at each try is to fail by itself
            unavailable_timeout = max(
                unavailable_timeout, self._endpoint.stall_timeout * (self._endpoint.max_retries + 1)
            )
        if wait > unavailable_timeout and not self._capped:
            self._capped = True
            self._say(
                f"a server asks to wait {wait:,.0f} s (Retry-After): asked again after {unavailable_timeout:g} s"
            )
        clock = asyncio.get_running_loop().time
        until = clock() + min(wait, unavailable_timeout)
        while True:
            left = self._time_left(clock(), failure, unavailable_timeout, tries)
            if (rest := until - clock()) <= 0:
                return
            await asyncio.sleep(min(rest, left))

    def _time_left(self, now: float, failure: Retry, unavailable_timeout: float, tries: Tries) -> float:
        if self._bad_since is None:
            return unavailable_timeout
        heard = max(transport.heard_at for transport in self._transports.values())
        self._bad_since = max(self._bad_since, heard)  # an answer on its way is good news too
        left = self._bad_since + unavailable_timeout - now
        if left <= 0:
            names = ", ".join(place.name for place in self._places.places)
            reason = self._cleaner.clean(failure.reason)
            why = f"{names}: no good answer for {unavailable_timeout:g} s; the last: {reason}"
            if failure.refused or not (self._answered or self._good):
                raise Stopped(why)
            # The server is there and answered others: it may be this request that it cannot answer. Where it
            # is the server, so many requests soon fail that the run stops.
            if tries.failed > self._endpoint.max_retries:
                raise RequestFailed(why)
            return unavailable_timeout
        return left

    def _refusal(self, place: PooledEndpoint, reason: str) -> str:
        env = self._endpoint.api_key_env
        key = f"key from the environment variable {env}" if env else "no api_key_env is set"
        return f"{place.name}: cannot use model {self.model!r} ({key}): {reason}"
