"""`retort serve`: serves a run's student, OpenAI-compatible, until Ctrl-C."""

from __future__ import annotations

import json
import time

from pipeline.chat.speaker import Speaker, reach
from pipeline.engine.progress import say
from pipeline.inference.vllm_server import ServerDied

POLL = 0.5  # seconds
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(speaker: Speaker, port: int, host: str) -> None:
    """Starts the server, prints its URL, its model's name and a request, and returns after Ctrl-C.

    Raises ServerDied if it cannot start, or ends by itself.
    """
    if host not in _LOOPBACK:
        say(f"warning: whoever reaches {host} can use the model: the server asks for no key")
    with reach(speaker, port, host) as server:
        (url,) = server.base_urls
        question = speaker.prompt.fill({"question": "What is 2 + 3?", "source": ""})[-1].content
        body = {"model": server.model, "messages": [{"role": "user", "content": question}]}
        data = json.dumps(body).replace("'", r"\u0027")
        print(f"url:    {url}\nmodel:  {server.model}")
        print(f"curl {url}/chat/completions -H 'Content-Type: application/json' -d '{data}'", flush=True)
        say("Ctrl-C ends it")
        try:
            while (died := server.died()) is None:
                time.sleep(POLL)
        except KeyboardInterrupt:
            say("stopping")
            return
        raise ServerDied(died)
