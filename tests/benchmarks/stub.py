"""A fast server: answers every chat completion after 50 ms with 3 kB, and counts requests.

    python -m tests.benchmarks.stub [SECONDS]       # prints its address

It parses no more of a request than it must, so that a benchmark measures the client.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER = "<think>\n" + "I add the numbers once more to be sure. " * 70 + "\n</think>\n\nThe answer is 4."
BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 600, "total_tokens": 620},
    }
).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "stub", "object": "model"}]}).encode()


@contextmanager
def running() -> Iterator[tuple[str, int]]:
    """Runs the stub in its own process; yields its address and pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.stub"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()


def http(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


class Stub(asyncio.Protocol):
    latency = 0.05
    requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(head)

    def answer(self, head: bytes) -> None:
        if b"/models" in head.split(b"\r\n", 1)[0]:
            self.send(http(MODELS))
        elif b"/count" in head.split(b"\r\n", 1)[0]:
            self.send(http(str(Stub.requests).encode()))
        else:
            Stub.requests += 1
            asyncio.get_running_loop().call_later(self.latency, self.send, http(BODY))

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)  # type: ignore[attr-defined]


async def main() -> None:
    if len(sys.argv) > 1:
        Stub.latency = float(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
