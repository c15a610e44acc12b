"""Reads the log-probabilities of a response into the compact row that stores them.

Servers send the text of the sampled tokens as bytes, which tell where the reasoning ends.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Any

from pipeline.inference.dialects import CLOSE
from pipeline.inference.http_errors import RequestFailed
from pipeline.rows import Logprobs

MIN_LOGPROB = -9999.0  # what vLLM sends for minus infinity


class NoLogprobs(Exception):
    """The response lacks the log-probabilities that were requested; the message says which."""


class TokenLogprobs:
    """Collects the log-probabilities of the sampled tokens of one response."""

    def __init__(self) -> None:
        self._logprobs = array("d")
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
        text, raw = token["token"].encode(errors="replace"), token.get("bytes")
        self._logprobs.append(rounded(token["logprob"]))
        self._text += text if raw is None else bytes([*raw])  # as a list: bytes(10**12) would allocate that
        self._ends.append(len(self._text))

    def row(self, reasoning: str | None, response: str, thinking: bool, before: Logprobs | None) -> Logprobs:
        """Returns the row of a whole completion: the tokens of `before`, then these. Raises NoLogprobs.

        `reasoning`, `response` and `thinking` (the reasoning was never closed) describe the whole completion.
        """
        if not self._logprobs and (reasoning or response) and before is None:
            raise NoLogprobs("it sends no log-probabilities, which generate.logprobs needs")
        old, end = before.logprobs if before else (), 0
        if reasoning is not None:
            end = len(old) + (len(self._logprobs) if thinking else self._end_of_reasoning(response))
        return Logprobs(reasoning_tokens=end, logprobs=(*old, *self._logprobs))

    def _end_of_reasoning(self, response: str) -> int:
        """Returns how many leading tokens are the reasoning with its tags."""
        if (at := self._text.find(CLOSE.encode())) >= 0:
            return bisect_left(self._ends, at + len(CLOSE)) + 1
        # The token text hides the tags or has others: the reasoning ends where the response begins.
        if response and (at := self._text.rfind(response.encode(errors="replace"))) >= 0:
            return bisect_right(self._ends, at)
        if not response:
            return len(self._logprobs)
        raise NoLogprobs("its log-probabilities lack the tokens' bytes, which tell reasoning from response")


def rounded(value: float) -> float:
    """A log-probability as it is stored. Raises ValueError for what is none."""
    if isinstance(value, bool) or not value < 1:  # infinity and NaN are not below 1
        raise ValueError("not a number")
    return max(round(value, 5), MIN_LOGPROB) if value > MIN_LOGPROB else MIN_LOGPROB
