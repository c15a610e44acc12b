"""The server of ONNX folders, with a stand-in for onnxruntime-genai that answers "It is 5."."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.compress.tool import SCRIPTS
from pipeline.rows import Message, Sampling
from tests.serving import client

STAND_IN = """
import json
ANSWER = "It is 5."
class Model:
    def __init__(self, path): pass
class Stream:
    def decode(self, token): return chr(token)
class Tokenizer:
    eos_token_ids = [0]
    def __init__(self, model): pass
    def create_stream(self): return Stream()
    def encode(self, text): return [ord(c) for c in text]
    def apply_chat_template(self, messages, add_generation_prompt):
        return "".join(message["content"] for message in json.loads(messages))
class GeneratorParams:
    def __init__(self, model): pass
    def set_search_options(self, **options): self.options = options
class Generator:
    def __init__(self, model, parameters):
        options = parameters.options
        said = json.dumps(options, sort_keys=True) if options.get("top_k") == 7 else ANSWER
        self.left = [ord(c) for c in said] + [0]
    def append_tokens(self, tokens): pass
    def generate_next_token(self): self.token = self.left.pop(0)
    def get_next_tokens(self): return [self.token]
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("onnx")
    (folder / "onnxruntime_genai.py").write_text(STAND_IN)
    (folder / "genai_config.json").write_text(json.dumps({"model": {"context_length": 200}}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    job = json.dumps({"path": str(folder), "name": "m", "host": "127.0.0.1", "port": port})
    command = [sys.executable, "-P", str(SCRIPTS / "serve_onnxruntime.py"), job]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(folder)})
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        assert process.poll() is None
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stream", [True, False])
def test_answers_are_whole_and_counted(url: str, stream: bool) -> None:
    async def ask(most: int, **body: Any) -> Any:
        async with client(url, model="m", stream=stream, extra_body=body) as teacher:
            await teacher.check()
            sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=most)
            return await teacher.complete([Message(role="user", content="2 + 3?")], sampling, 5)

    done = asyncio.run(ask(20))
    assert (done.response, done.finish_reason) == ("It is 5.", "stop")
    assert (done.prompt_tokens, done.completion_tokens) == (6, 9)  # with the token that ends the answer
    truncated = asyncio.run(ask(5))
    assert (truncated.response, truncated.finish_reason, truncated.completion_tokens) == (
        "It is",
        "length",
        5,
    )
    options = json.loads(asyncio.run(ask(190, top_k=7)).response)
    assert options == {
        "do_sample": True,
        "max_length": 196,
        "random_seed": 5,
        "repetition_penalty": 1.0,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
    }


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError"),
        (b'{"messages": 3}', "TypeError"),
        (b'{"messages": [{"content": "a"}], "temperature": "hot"}', "ValueError"),
        (json.dumps({"messages": [{"content": "a" * 200}]}).encode(), "the context 200"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_and_the_next_one_is_not(
    url: str, body: bytes, why: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", body))
    with caught.value as refused:
        assert refused.code == 400
        assert why in json.load(refused)["error"]["message"]
    with urllib.request.urlopen(f"{url}/models") as models:
        assert json.load(models)["data"][0]["id"] == "m"


def test_a_huge_request_is_not_read(url: str) -> None:
    request = urllib.request.Request(f"{url}/chat/completions", b"{}", {"Content-Length": str(2**30)})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as refused:
        assert refused.code == 413
