"""The log-probabilities in a server's answer, read into the compact row that keeps them.

vLLM names tokens by their ids when asked ("token_id:123") and sends the text of the drawn ones as bytes,
which tell where the thought ends. Leaves out means over them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Any

from pipeline.inference.dialects import CLOSE
from pipeline.inference.http import RequestFailed
from pipeline.rows import Logprobs

LEAST = -9999.0  # what vLLM sends for minus infinity
MOST_TOP = 20  # candidates that vLLM and hosted APIs give unless told otherwise
PLACEHOLDER = "token_id:"


class NoLogprobs(Exception):
    """The answer lacks log-probabilities that were asked for; the message says which."""


def asked(k: int) -> dict[str, Any]:
    """The fields of a request that ask for the k likeliest tokens at each position.

    vLLM puts the drawn token before its likeliest and cuts the list at the length asked for; so one more is
    asked for, where a server with the usual bound gives it.
    """
    if k == 0:  # hosted APIs refuse fields that they do not know, and no ids are needed
        return {"logprobs": True}
    top = k + 1 if k < MOST_TOP else k
    return {"logprobs": True, "top_logprobs": top, "return_tokens_as_token_ids": True}


class Tokens:
    """The drawn tokens of one answer and their k likeliest, as they come."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._ids, self._logprobs = array("i"), array("d")
        self._top_ids, self._top_logprobs = array("i"), array("d")
        self._text = bytearray()  # of the drawn tokens, one after the other
        self._ends = array("q")  # where each token ends in it

    def take(self, part: Any) -> None:
        """Add the `logprobs` of a choice. RequestFailed when they have another form than OpenAI's."""
        tokens = part.get("content") if isinstance(part, dict) else part
        try:
            for token in tokens or ():
                self._add(token)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise RequestFailed("the answer has the wrong form: its logprobs cannot be read") from None

    def _add(self, token: dict[str, Any]) -> None:
        name, raw = token["token"], token.get("bytes")
        self._ids.append(_id(name))
        self._logprobs.append(_log(token["logprob"]))
        text = b"" if name.startswith(PLACEHOLDER) else name.encode(errors="replace")
        self._text += text if raw is None else bytes([*raw])  # a list: bytes(10**12) would be that many
        self._ends.append(len(self._text))
        if self._k:
            top = [(_log(other["logprob"]), _id(other["token"])) for other in token.get("top_logprobs") or ()]
            top.sort(key=lambda pair: -pair[0])
            top += [(LEAST, -1)] * (self._k - len(top))
            self._top_logprobs.extend(pair[0] for pair in top[: self._k])
            self._top_ids.extend(pair[1] for pair in top[: self._k])

    def row(self, reasoning: str | None, response: str, thinking: bool, before: Logprobs | None) -> Logprobs:
        """The row of a whole completion: `before`, then these tokens. Raises NoLogprobs.

        `reasoning`, `response` and `thinking` (the thought was never ended) are those of the whole.
        """
        if not self._ids and (reasoning or response) and before is None:
            raise NoLogprobs("it sends no log-probabilities")
        if self._k and -1 in self._ids:
            raise NoLogprobs("its log-probabilities do not name tokens by their ids")
        old = len(before.tokens) if before else 0
        thought = 0
        if reasoning is not None:
            thought = old + (len(self._ids) if thinking else self._end_of_thought(response))
        return Logprobs(
            k=self._k,
            thought=thought,
            tokens=(*(before.tokens if before else ()), *self._ids),
            logprobs=(*(before.logprobs if before else ()), *self._logprobs),
            top_tokens=(*(before.top_tokens if before else ()), *self._top_ids),
            top_logprobs=(*(before.top_logprobs if before else ()), *self._top_logprobs),
        )

    def _end_of_thought(self, response: str) -> int:
        """How many tokens, from the first, are the thought with its tags."""
        if (at := self._text.find(CLOSE.encode())) >= 0:
            return bisect_left(self._ends, at + len(CLOSE)) + 1
        # The tokens' text hides the tags, or has others: the thought ends where the response begins.
        if response and (at := self._text.rfind(response.encode(errors="replace"))) >= 0:
            return bisect_right(self._ends, at)
        if not response:
            return len(self._ids)
        raise NoLogprobs("its log-probabilities lack the tokens' bytes, which tell a thought from an answer")


def _id(name: str) -> int:
    if not name.startswith(PLACEHOLDER):
        return -1
    digits = name[len(PLACEHOLDER) :]
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("not an id")
    return int(digits)


def _log(value: float) -> float:
    if isinstance(value, bool) or not value < 1:  # neither is infinity, nor what is no number
        raise ValueError("not a number")
    return max(round(value, 5), LEAST) if value > LEAST else LEAST
