"""How a model reads given tokens: the k likeliest at each position, by vLLM's `prompt_logprobs`.

The tokens are sent as the prompt of /v1/completions. The server reads them in one forward pass, which costs
much less than sampling as many.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.inference.chat_request import Request
from pipeline.inference.http import COMPLETIONS, ResponseLimits
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.logprobs import MIN_LOGPROB, NoLogprobs, rounded
from pipeline.inference.response import Completion, CompletionReader, PromptLogprobs

UNREADABLE = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is a part of a character


def prompt_request(endpoint: Endpoint, model: str, tokens: Sequence[int], last: int, k: int) -> Request:
    """The request for the k likeliest tokens at each of the last `last` positions of a prompt."""
    fields = endpoint.extra_body | {
        "model": model,
        "prompt": list(tokens),
        "max_tokens": 1,  # no server takes 0
        "temperature": 0,
        "prompt_logprobs": k,
    }
    limits = ResponseLimits(endpoint.stall_timeout, len(tokens) + 1, k + 1)
    answer = list(tokens[len(tokens) - last :])
    return Request(fields, limits, lambda: PromptReader(answer, k), path=COMPLETIONS)


def check_texts(
    objective: str, tokens: Sequence[int], ours: Sequence[str], theirs: Sequence[str | None]
) -> bool:
    """Whether the teacher tells its tokens' texts. Raises UserError where they are not the student's."""
    for token, own, other in zip(tokens, ours, theirs, strict=True):
        if other and UNREADABLE not in own + other and own.strip() != other.strip():
            raise UserError(
                f"{objective}: the token {token} is {own!r} for the student and {other!r} for the teacher, "
                'which needs the student\'s tokenizer; train.objective = "sft" does not'
            )
    return any(theirs)


class PromptReader(CompletionReader):
    """Takes the bytes of a response about a prompt that ends with the tokens `answer`."""

    def __init__(self, answer: Sequence[int], k: int) -> None:
        super().__init__()
        self._answer, self._k = answer, k
        self._positions: Any = None

    def completion(self, before: Completion | None = None) -> Completion:
        """Returns a completion with prompt_logprobs; the sampled token is left out."""
        completion = super().completion(before)
        if not self._positions:
            raise NoLogprobs("it sends no prompt_logprobs, which soft labels need")
        try:
            found = self._read(self._positions[-len(self._answer) :])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise RequestFailed(
                "the response has the wrong form: its prompt_logprobs cannot be read"
            ) from None
        return replace(completion, reasoning=None, response="", prompt_logprobs=found)

    def _take_choice(self, index: int, choice: dict[str, Any]) -> None:
        super()._take_choice(index, choice)
        self._positions = choice.get("prompt_logprobs")

    def _read(self, positions: Sequence[Any]) -> PromptLogprobs:
        """Raises KeyError where a position lacks the token that was sent, so nothing can be out of line."""
        logprobs, top_tokens, top_logprobs = array("d"), array("q"), array("d")
        texts = []
        for token, position in zip(self._answer, positions, strict=True):
            own = position[str(token)]
            logprobs.append(rounded(own["logprob"]))
            texts.append(text if isinstance(text := own.get("decoded_token"), str) else None)
            top = [(rounded(other["logprob"]), int(name)) for name, other in position.items()]
            top.sort(key=lambda pair: -pair[0])
            top += [(MIN_LOGPROB, -1)] * (self._k - len(top))
            top_logprobs.extend(value for value, _ in top[: self._k])
            top_tokens.extend(name for _, name in top[: self._k])
        return PromptLogprobs(logprobs, top_tokens, top_logprobs, texts)
