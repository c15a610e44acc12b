"""Serves a compressed student by the program that its scheme names, here or not at all.

vLLM runs in the interpreter of retort, llama.cpp and onnxruntime in that of [compress].
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.compress import interpreter
from pipeline.compress.schemes import PROGRAMS, SCHEMES
from pipeline.compress.tool import SCRIPTS, environment
from pipeline.config import Recipe
from pipeline.config.compress import SchemeName
from pipeline.config.endpoints import Endpoint, Student
from pipeline.engine.subprocess_guard import Child
from pipeline.hardware import has_gpu
from pipeline.inference import vllm_server
from pipeline.inference.endpoint import vllm_arguments
from pipeline.inference.vllm_server import HOST, Server

PROMPT_ROOM = 2048  # tokens of a conversation before an answer, where the recipe sets no max_model_len


def cannot_serve(scheme: SchemeName) -> str | None:
    """Why this machine cannot serve a scheme; None if it can."""
    if SCHEMES[scheme].gpu_only and not has_gpu():
        return f"{SCHEMES[scheme].served_by} serves it on GPUs only, and there is none here"
    return None


def endpoint_of(scheme: SchemeName, student: Student) -> Endpoint:
    """The student's endpoint, with the settings that the scheme's server understands."""
    return student if SCHEMES[scheme].served_by == "vllm" else student.model_copy(update={"vllm": {}})


def check(scheme: SchemeName, recipe: Recipe) -> None:
    """Raises UserError if the program that serves a scheme is missing."""
    if SCHEMES[scheme].served_by != "vllm":
        interpreter.check(recipe.compress.model_copy(update={"schemes": (scheme,)}))
    elif recipe.student is not None:
        vllm_server.check(recipe.student)


@contextmanager
def serving(
    scheme: SchemeName,
    path: Path,
    name: str,
    recipe: Recipe,
    log: Path,
    say: Callable[[str], None],
    port: int = 0,
    host: str = HOST,
) -> Iterator[Server]:
    """Serves an export, known to clients as `name`, during the block. Raises ServerDied if it cannot start.

    `path`: as `export_path` returns it.
    """
    assert recipe.student is not None, "only a student is compressed"
    endpoint: Endpoint = recipe.student
    if SCHEMES[scheme].served_by == "vllm":
        arguments = vllm_arguments(endpoint, say)
        endpoint = endpoint.model_copy(update={"vllm": arguments, "port": port})
        with vllm_server.serving(endpoint, str(path.absolute()), name, log, say, host) as server:
            yield server
        return
    program, port = SCHEMES[scheme].served_by, vllm_server.usable_port(port, host)
    line = _command(scheme, path, name, recipe, host, port)
    say(f"starting {program} for {name} (log: {log})")
    began = time.monotonic()
    with Child(line, log, environment()) as child:
        url = vllm_server.url_of(host, port)
        asyncio.run(vllm_server.until_ready(child, url, name, endpoint.start_timeout, program))
        say(f"{program} is ready after {time.monotonic() - began:.0f} s")
        yield Server((url,), name, child, program=program, engine=_engine(scheme, recipe))


def _engine(scheme: SchemeName, recipe: Recipe) -> dict[str, str | None]:
    _, package = PROGRAMS[SCHEMES[scheme].served_by]
    version = interpreter.version(recipe.compress, package)
    return {"name": package, "version": version, "quantization": scheme, "gpu": "none"}


def _command(scheme: SchemeName, path: Path, name: str, recipe: Recipe, host: str, port: int) -> list[str]:
    assert recipe.student is not None
    engine = recipe.student.vllm
    longest = engine.get("max_model_len", engine.get("max-model-len"))
    context = longest if isinstance(longest, int) else PROMPT_ROOM + recipe.evaluate.max_tokens
    job = {"path": str(path.absolute()), "name": name, "host": host, "port": port, "context": context}
    program, _ = PROGRAMS[SCHEMES[scheme].served_by]
    script = SCRIPTS / f"serve_{program}.py"
    return [str(interpreter.find(recipe.compress)), "-P", str(script), json.dumps(job)]
