"""Reads the log-probabilities of a response into the compact row that stores them.

vLLM names tokens by their ids on request ("token_id:123") and sends the text of the sampled ones as bytes,
which tell where the reasoning ends.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Any

from pipeline.inference.dialects import CLOSE
from pipeline.inference.http_errors import RequestFailed
from pipeline.rows import Logprobs

MIN_LOGPROB = -9999.0  # what vLLM sends for minus infinity
MAX_TOP = 20  # candidates that vLLM and hosted APIs give by default
ID_PREFIX = "token_id:"


class NoLogprobs(Exception):
    """The response lacks the log-probabilities that were requested; the message says which."""


def logprob_fields(k: int) -> dict[str, Any]:
    """Returns the request fields for the k likeliest tokens at each position.

    vLLM puts the sampled token before the likeliest and then truncates the list, so one more is requested
    where a server with the usual limit gives it.
    """
    if k == 0:  # hosted APIs refuse unknown fields, and no ids are needed
        return {"logprobs": True}
    top = k + 1 if k < MAX_TOP else k
    return {"logprobs": True, "top_logprobs": top, "return_tokens_as_token_ids": True}


class TokenLogprobs:
    """Collects the sampled tokens of one response and their k likeliest candidates."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._ids, self._logprobs = array("i"), array("d")
        self._top_ids, self._top_logprobs = array("i"), array("d")
        self._text = bytearray()  # of the sampled tokens, concatenated
        self._ends = array("q")  # offset in it where each token ends

    def take(self, part: Any) -> None:
        """Adds the `logprobs` of a choice. Raises RequestFailed if they do not have OpenAI's form."""
        tokens = part.get("content") if isinstance(part, dict) else part
        try:
            for token in tokens or ():
                self._add(token)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise RequestFailed("the response has the wrong form: its logprobs cannot be read") from None

    def _add(self, token: dict[str, Any]) -> None:
        name, raw = token["token"], token.get("bytes")
        self._ids.append(_token_id(name))
        self._logprobs.append(rounded(token["logprob"]))
        text = b"" if name.startswith(ID_PREFIX) else name.encode(errors="replace")
        self._text += text if raw is None else bytes([*raw])  # as a list: bytes(10**12) would allocate that
        self._ends.append(len(self._text))
        if self._k:
            candidates = token.get("top_logprobs") or ()
            top = [(rounded(other["logprob"]), _token_id(other["token"])) for other in candidates]
            top.sort(key=lambda pair: -pair[0])
            top += [(MIN_LOGPROB, -1)] * (self._k - len(top))
            self._top_logprobs.extend(pair[0] for pair in top[: self._k])
            self._top_ids.extend(pair[1] for pair in top[: self._k])

    def row(self, reasoning: str | None, response: str, thinking: bool, before: Logprobs | None) -> Logprobs:
        """Returns the row of a whole completion: the tokens of `before`, then these. Raises NoLogprobs.

        `reasoning`, `response` and `thinking` (the reasoning was never closed) describe the whole completion.
        """
        if not self._ids and (reasoning or response) and before is None:
            raise NoLogprobs("it sends no log-probabilities, which generate.logprobs needs")
        if self._k and -1 in self._ids:
            raise NoLogprobs("its log-probabilities lack token ids, which generate.logprobs needs")
        old = before or Logprobs(
            k=self._k, reasoning_tokens=0, tokens=(), logprobs=(), top_tokens=(), top_logprobs=()
        )
        end = 0
        if reasoning is not None:
            end = len(old.tokens) + (len(self._ids) if thinking else self._end_of_reasoning(response))
        return Logprobs(
            k=self._k,
            reasoning_tokens=end,
            tokens=(*old.tokens, *self._ids),
            logprobs=(*old.logprobs, *self._logprobs),
            top_tokens=(*old.top_tokens, *self._top_ids),
            top_logprobs=(*old.top_logprobs, *self._top_logprobs),
        )

    def _end_of_reasoning(self, response: str) -> int:
        """Returns how many leading tokens are the reasoning with its tags."""
        if (at := self._text.find(CLOSE.encode())) >= 0:
            return bisect_left(self._ends, at + len(CLOSE)) + 1
        # The token text hides the tags or has others: the reasoning ends where the response begins.
        if response and (at := self._text.rfind(response.encode(errors="replace"))) >= 0:
            return bisect_right(self._ends, at)
        if not response:
            return len(self._ids)
        raise NoLogprobs("its log-probabilities lack the tokens' bytes, which tell reasoning from response")


def _token_id(name: str) -> int:
    if not name.startswith(ID_PREFIX):
        return -1
    digits = name.removeprefix(ID_PREFIX)
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("not an id")
    return int(digits)


def rounded(value: float) -> float:
    """A log-probability as it is stored. Raises ValueError for what is none."""
    if isinstance(value, bool) or not value < 1:  # infinity and NaN are not below 1
        raise ValueError("not a number")
    return max(round(value, 5), MIN_LOGPROB) if value > MIN_LOGPROB else MIN_LOGPROB
