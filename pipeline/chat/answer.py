"""Requests one answer and shows it while it arrives.

The text is the model's and untrusted: control characters are escaped before it reaches a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from pydantic_core import to_json

from pipeline.config.endpoints import Endpoint
from pipeline.engine.progress import plain
from pipeline.inference.chat_request import chat_request
from pipeline.inference.credentials import Redactor, read_key
from pipeline.inference.dialects import MARKS
from pipeline.inference.http import Transport
from pipeline.inference.http_errors import ErrorStatus, FieldRefused, RequestFailed, Retry, classify
from pipeline.inference.response import Completion, CompletionReader
from pipeline.inference.vllm_server import PROBE_LIMITS, Server
from pipeline.rows import Message, Sampling

DIM, NORMAL = "\x1b[2m", "\x1b[0m"
_TAGS = [marks for marks in MARKS if not marks.words]
_LONGEST = max(len(mark) for marks in _TAGS for mark in marks[:2])


class Display:
    """Shows an answer. In a terminal it streams, with the reasoning dimmed.

    Anywhere else the finished answer goes to `out` alone, for a program to read, and the reasoning to `err`.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        err: TextIO | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Default: the process's own stdout and stderr."""
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._streams = self._out.isatty()
        self._dims = self._streams and "NO_COLOR" not in environment and environment.get("TERM") != "dumb"
        self._shown = 0  # characters of reasoning and answer
        self._line = ""  # end of what was shown

    def show(self, reasoning: str, answer: str) -> None:
        """Shows what is new of an unfinished answer."""
        if not self._streams:
            return
        new = reasoning[self._shown :]
        self._write(f"{DIM}{plain(new)}{NORMAL}" if new and self._dims else plain(new), new)
        rest = answer[max(0, self._shown - len(reasoning)) :]
        if rest and reasoning and self._shown <= len(reasoning):
            self._write("\n" * (2 - min(2, len(self._line) - len(self._line.rstrip("\n")))))
        self._write(plain(rest), rest)
        self._shown = len(reasoning) + len(answer)
        self._out.flush()

    def end(self, reasoning: str, answer: str) -> None:
        """Shows the rest of an answer that has ended."""
        if self._streams:
            self.show(reasoning, answer)
            self._write("" if self._line.endswith("\n") else "\n")
        else:
            self._err.write(f"{plain(reasoning).strip()}\n\n" if reasoning.strip() else "")
            self._err.flush()
            self._out.write(f"{plain(answer).strip()}\n")
        self._out.flush()

    def _write(self, text: str, said: str | None = None) -> None:
        self._out.write(text)
        self._line = (self._line + (text if said is None else said))[-2:]


def visible(content: str, reasoning: str, ended: bool = False) -> tuple[str, str]:
    """Returns reasoning and answer of what has arrived, without the marks between them.

    Until it has `ended`, an end that may become a mark or a whole character is held back. Both texts only
    grow, except that text whose closing mark arrives later moves from the answer to the reasoning.
    """
    if not ended:
        content, reasoning = _settled(content), _settled(reasoning)
    content = content.lstrip()
    if reasoning.strip():
        return reasoning.lstrip(), content
    for marks in _TAGS:
        if content.startswith(marks.begin):
            inside, _, after = content.removeprefix(marks.begin).partition(marks.end)
            return inside.lstrip(), after.lstrip()
    if closed := [(at, marks.end) for marks in _TAGS if (at := content.find(marks.end)) >= 0]:
        at, mark = min(closed)  # the chat template wrote the opening mark
        return content[:at], content[at + len(mark) :].lstrip()
    return "", content


def _settled(text: str) -> str:
    """Returns the text without an end that the next piece may turn into a mark or another character."""
    text = text.rstrip("\ufffd")
    for at in range(max(0, len(text) - _LONGEST), len(text)):
        if any(mark.startswith(text[at:]) for marks in _TAGS for mark in marks[:2]):
            return text[:at]
    return text


class Answer:
    """An answer as it arrives: a sink of `Transport.send` that shows it."""

    def __init__(self, display: Display) -> None:
        self._reader, self._display = CompletionReader(), display

    @property
    def pieces(self) -> int:
        return self._reader.pieces

    def feed(self, chunk: bytes) -> None:
        self._reader.feed(chunk)
        self._display.show(*visible(*self._reader.so_far()))

    def end(self) -> str:
        """Shows what is left, also of an answer that was stopped; returns it without its reasoning."""
        reasoning, answer = visible(*self._reader.so_far(), ended=True)
        self._display.end(reasoning, answer)
        return answer.strip()

    def completion(self) -> Completion:
        """Returns the whole answer. Raises what `CompletionReader.completion` raises."""
        return self._reader.completion()


async def request(
    endpoint: Endpoint,
    server: Server,
    messages: Sequence[Message],
    sampling: Sampling,
    seed: int,
    into: Answer,
) -> Completion:
    """Requests an answer once. Raises RequestFailed, with the reason in one line."""
    key = read_key(endpoint.api_key_env)
    redactor, unsent = Redactor(key), frozenset[str](endpoint.omit)
    async with Transport(server.base_urls[0], key) as transport:
        room = await _room(transport, server.model, messages, sampling.max_tokens)
        sampling = sampling.model_copy(update={"max_tokens": room})
        asked = chat_request(endpoint, server.model, messages, sampling, seed, False, None)
        while True:
            try:
                await transport.send(asked.body(unsent), into, asked.limits)
                return into.completion()
            except Retry as e:
                raise RequestFailed(redactor.clean(e.reason)) from None
            except ErrorStatus as e:
                refusal = classify(e, redactor)
            more = frozenset(refusal.fields) if isinstance(refusal, FieldRefused) else frozenset()
            if not more - unsent:
                reason = refusal.reason if isinstance(refusal, Retry) else str(refusal)
                raise RequestFailed(redactor.clean(reason))
            unsent |= more


async def _room(transport: Transport, model: str, messages: Sequence[Message], most: int) -> int:
    """Returns the tokens that the answer may have, at most `most`, where the server tells as vLLM does.

    Raises RequestFailed if the messages fill the model's context.
    """
    sent = [{"role": m.role, "content": m.content} for m in messages]
    try:
        body = await transport.fetch("/tokenize", PROBE_LIMITS, to_json({"model": model, "messages": sent}))
        counted = json.loads(body)
        left = int(counted["max_model_len"]) - int(counted["count"])
    except (ErrorStatus, RequestFailed, Retry, ValueError, KeyError, TypeError):
        return most  # the server has no such path, and truncates or refuses by itself
    if left < 1:
        raise RequestFailed("the conversation fills the model's context")
    return min(most, left)
