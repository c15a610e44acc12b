"""Serves an ONNX folder with onnxruntime-genai, OpenAI-compatible: `python -P serve_onnxruntime.py JSON`.

JSON: path, name, host, port. One answer at a time; further requests wait. It has what `retort evaluate` and
`retort chat` need: /health, /v1/models and /v1/chat/completions, streamed or whole.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

MOST_BYTES = 2**24  # of a request
TIMEOUT = 30  # seconds in which a request must arrive


class Model:
    def __init__(self, path: str) -> None:
        self._model = og.Model(path)
        self._tokenizer = og.Tokenizer(self._model)
        self._ends = {int(token) for token in np.atleast_1d(self._tokenizer.eos_token_ids)}
        config = json.loads(Path(path, "genai_config.json").read_bytes())
        self.context = int(config["model"]["context_length"])
        self._turn = threading.Lock()

    def prompt(self, messages: Any) -> list[int]:
        text = self._tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        return [int(token) for token in self._tokenizer.encode(text)]

    def answer(self, prompt: list[int], body: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        """Yields a piece of text for each token, and at last why it ended: "stop" or "length"."""
        room = self.context - len(prompt)
        most = min(int(body.get("max_tokens") or room), room)
        with self._turn:
            parameters = og.GeneratorParams(self._model)
            parameters.set_search_options(max_length=len(prompt) + most, **_sampling(body))
            generator, decoder = og.Generator(self._model, parameters), self._tokenizer.create_stream()
            generator.append_tokens(np.array([prompt], np.int32))
            for _ in range(most):
                generator.generate_next_token()
                token = int(generator.get_next_tokens()[0])
                if token in self._ends:
                    yield "", "stop"
                    return
                yield decoder.decode(token), None
        yield "", "length"


def _sampling(body: dict[str, Any]) -> dict[str, Any]:
    """The search options of a request; temperature 0 is greedy. No option comes from the model's folder."""
    temperature = float(1 if body.get("temperature") is None else body["temperature"])
    options: dict[str, Any] = {"repetition_penalty": 1.0, "do_sample": temperature > 0}
    if temperature > 0:
        top_p = float(1 if body.get("top_p") is None else body["top_p"])
        options |= {"temperature": temperature, "top_p": top_p, "top_k": int(body.get("top_k") or 0)}
        options |= {"random_seed": int(body["seed"])} if body.get("seed") is not None else {}
    return options


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT
    model: Model
    name: str

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {})
        elif self.path == "/v1/models":
            entry = {"id": self.name, "object": "model", "max_model_len": self.model.context}
            self._send(200, {"object": "list", "data": [entry]})
        else:
            self._refuse(404, f"no {self.path} here")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            self._refuse(413, f"a request has at most {MOST_BYTES} bytes and says how many")
            return
        data = self.rfile.read(int(length))
        if self.path != "/v1/chat/completions":
            self._refuse(404, f"no {self.path} here")
            return
        try:
            body = json.loads(data)
            prompt = self.model.prompt(body["messages"])
            _sampling(body)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as e:
            self._refuse(400, f"{type(e).__name__}: {e}")
            return
        if len(prompt) >= self.model.context:
            self._refuse(400, f"the prompt has {len(prompt)} tokens, the context {self.model.context}")
        elif body.get("stream"):
            self._stream(prompt, body)
        else:
            self._whole(prompt, body)

    def _whole(self, prompt: list[int], body: dict[str, Any]) -> None:
        pieces = list(self.model.answer(prompt, body))
        message = {"role": "assistant", "content": "".join(text for text, _ in pieces)}
        choice = {"index": 0, "message": message, "finish_reason": pieces[-1][1]}
        self._send(200, self._completion([choice], _usage(prompt, pieces)))

    def _stream(self, prompt: list[int], body: dict[str, Any]) -> None:
        """Sends an event for each token; a client that has gone ends the answer."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        pieces: list[tuple[str, str | None]] = []
        try:
            for text, reason in self.model.answer(prompt, body):
                pieces.append((text, reason))
                choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
                self._event(self._completion([choice]))
            if (body.get("stream_options") or {}).get("include_usage"):
                self._event(self._completion([], _usage(prompt, pieces)))
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass

    def _completion(self, choices: list[Any], usage: Any = None) -> dict[str, Any]:
        return {"object": "chat.completion", "model": self.name, "choices": choices, "usage": usage}

    def _event(self, body: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message}})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Logs nothing: a line for each request would fill the disk."""


def _usage(prompt: list[int], pieces: list[tuple[str, str | None]]) -> dict[str, int]:
    """Counts tokens as vLLM does, the end token included."""
    generated = len(pieces) - (pieces[-1][1] == "length")
    return {"prompt_tokens": len(prompt), "completion_tokens": generated}


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    Handler.model, Handler.name = Model(job["path"]), job["name"]
    Server((job["host"], job["port"]), Handler).serve_forever()
