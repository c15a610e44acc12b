"""`retort chat`: a conversation with a model in the terminal, or one question from a pipe.

The first message is asked by the speaker's prompt, as in training; later ones by its last turn alone. Past
turns are sent without their reasoning, as chat templates expect.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass, field

from pipeline.chat.answer import Answer, Display, request
from pipeline.chat.speaker import Speaker, reach
from pipeline.engine.progress import say
from pipeline.errors import Stopped, UserError
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.vllm_server import Server
from pipeline.rows import Message

MOST = 2**20  # characters of a question
HELP = "Ctrl-C stops an answer; /reset begins a new conversation; /quit or Ctrl-D ends"


@dataclass
class Conversation:
    speaker: Speaker
    server: Server
    past: list[Message] = field(default_factory=list)
    answers: int = 0  # requested; each has a seed of its own
    ended: bool = False  # by a signal other than Ctrl-C

    def ask(self, text: str) -> None:
        """Shows the answer and adds both to the conversation, also if Ctrl-C stops it halfway.

        Raises RequestFailed if there is no answer; the conversation then stays as it was.
        """
        question = text.encode(errors="replace").decode()  # of bytes that are not UTF-8
        asked = self.speaker.prompt.fill({"question": question, "source": ""})
        messages = [*self.past, asked[-1]] if self.past else list(asked)
        seed = self.speaker.seed + self.answers
        self.answers += 1
        into = Answer(Display())
        work = request(self.speaker.endpoint, self.server, messages, self.speaker.sampling, seed, into)
        try:
            completion = asyncio.run(work)
        except KeyboardInterrupt:
            response = into.end()
            if self.ended:
                raise
            say("stopped")
        else:
            into.end()
            response = completion.response
            if completion.finish_reason == "length":
                say(f"truncated at {completion.completion_tokens or self.speaker.sampling.max_tokens} tokens")
        if response:
            self.past = [*messages, Message(role="assistant", content=response)]


def chat(speaker: Speaker) -> None:
    """Talks with a model. From a pipe, the whole input is one question, and its answer ends the command.

    Raises UserError for an empty question, Stopped when there is no answer to it, or the server died.
    """
    question = None if sys.stdin.isatty() else _piped()
    with reach(speaker) as server:
        conversation = Conversation(speaker, server)
        signal.signal(signal.SIGTERM, lambda *_: _end(conversation))
        if question is None:
            _talk(conversation)
        else:
            _answer(conversation, question, alone=True)


def _end(conversation: Conversation) -> None:
    conversation.ended = True
    signal.raise_signal(signal.SIGINT)


def _piped() -> str:
    text = sys.stdin.read(MOST + 1)
    if not text.strip() or len(text) > MOST:
        raise UserError(f"chat: the input is one question of 1 to {MOST:,} characters")
    return text.strip()


def _talk(conversation: Conversation) -> None:
    import readline  # noqa: F401  # gives input() its editing and history

    say(f"{conversation.speaker.name}: {HELP}")
    while (text := _next()) not in (None, "/quit"):
        if text == "/reset":
            conversation.past = []
            say("a new conversation")
        elif text.startswith("/"):
            say(HELP)
        elif text:
            _answer(conversation, text)


def _next() -> str | None:
    """Returns the next line, "" after Ctrl-C, None at the end of the input."""
    try:
        return input(">>> ").strip()[:MOST]
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        say(HELP)
        return ""


def _answer(conversation: Conversation, text: str, alone: bool = False) -> None:
    """Asks; a failure ends the command if the question is `alone` or the server is gone."""
    try:
        conversation.ask(text)
    except RequestFailed as e:
        if died := conversation.server.died():
            raise Stopped(died) from None
        if alone:
            raise Stopped(f"no answer: {e}") from None
        say(f"no answer: {e}; /reset begins a new conversation" if conversation.past else f"no answer: {e}")
