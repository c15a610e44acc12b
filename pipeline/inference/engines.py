"""Records which inference engine made the responses of a stage, as far as the server tells.

Scores move with the engine's version and its number format. The record is no part of a row or of a run's
identity: it stands beside the rows, in engines.OWNER.json, and in the manifest's report.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_core import from_json

from pipeline.config.endpoints import Endpoint
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.owner import this_owner
from pipeline.hardware import gpus, has_gpu
from pipeline.inference.credentials import Redactor, read_key
from pipeline.inference.http import MODELS, VERSION, ResponseLimits, Transport
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry
from pipeline.inference.vllm_server import Server, engine_arguments
from pipeline.rows import Row

UNKNOWN = "unknown"
LIMITS = ResponseLimits(stall=10, overhead=2**24)
# Engines that name themselves as the owner of a model; where each tells its version.
_ENGINES = {
    "vllm": (VERSION, "version"),
    "sglang": ("/get_server_info", "version"),
    "llamacpp": ("/props", "build_info"),
}
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_BY_MODEL = ("chat_template", "generation_config")  # not of the engine


class Engine(Row):
    """What served a model. None is unknown; a hosted API tells little."""

    name: str | None = None  # such as "vllm"
    version: str | None = None
    server: str | None = None  # the header "Server" of its responses
    dtype: str | None = None  # the number format of weights and activations
    quantization: str | None = None  # "none" if it is known that there is none
    gpu: str | None = None  # such as "2 x NVIDIA H100"; "none" on a CPU
    chat_template: str | None = None  # hash
    generation_config: str | None = None  # hash

    @property
    def words(self) -> str:
        """The engine in a few words, for people."""
        if self.name is None:
            return UNKNOWN + (f" (server {self.server})" if self.server else "")
        name = f"{self.name} {self.version or f'of {UNKNOWN} version'}"
        dtype, quantization, gpu = (
            value or f"{UNKNOWN} {what}"
            for what, value in (("dtype", self.dtype), ("quantization", self.quantization), ("GPU", self.gpu))
        )
        quantized = "not quantized" if quantization == "none" else quantization
        return f"{name}, {dtype}, {quantized}, {'CPU' if gpu == 'none' else gpu}"


async def describe(endpoint: Endpoint, server: Server) -> list[Engine]:
    """Asks each server of a model which engine it is."""
    key = read_key(endpoint.api_key_env)
    known = _served_here(endpoint, server) if server.child is not None else Engine()
    found = []
    for url in server.base_urls:
        async with Transport(url, key) as transport:
            told = await _ask(transport, server.model, Redactor(key))
        found.append(Engine.model_validate(told | known.model_dump(exclude_none=True)))
    return list(dict.fromkeys(found))


async def _ask(transport: Transport, model: str, redactor: Redactor) -> dict[str, str | None]:
    listed = await _json(transport, MODELS)
    models = listed.get("data") if isinstance(listed, dict) else None
    models = models if isinstance(models, list) else []
    owners = [m.get("owned_by") for m in models if isinstance(m, dict) and m.get("id") == model]
    name = next((owner for owner in owners if owner in _ENGINES), None)
    header = transport.server
    path, key = _ENGINES.get(name or "", ("", ""))
    told = await _json(transport, path) if path else None
    version = told.get(key) if isinstance(told, dict) else None
    usable = isinstance(version, str) and _VERSION.fullmatch(version)
    return {
        "name": name,
        "version": version if usable else None,
        "server": redactor.clean(header)[:80] if header else None,
    }


async def _json(transport: Transport, path: str) -> Any:
    try:
        return from_json(await transport.fetch(path, LIMITS))
    except (ErrorStatus, RequestFailed, Retry, ValueError):
        return None


def _served_here(endpoint: Endpoint, server: Server) -> Engine:
    """What is known of a server started on this machine; of vLLM by its arguments and the model's files."""
    if server.engine is not None:
        return Engine.model_validate(server.engine)
    folder, arguments = Path(server.path), engine_arguments(endpoint)
    config = _read_json(folder / "config.json")
    own = config.get("dtype") or config.get("torch_dtype") or UNKNOWN
    dtype = str(arguments.get("dtype", "auto"))
    quantized = config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    method = arguments.get("quantization") or method or ("none" if config else None)
    names = [gpu.name for gpu in gpus()] if has_gpu() else []
    gpu = " + ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return Engine(
        dtype=f"auto ({own})" if dtype == "auto" else dtype,
        quantization=method and str(method),
        gpu=gpu or (None if has_gpu() else "none"),
        chat_template=_template_hash(folder),
        generation_config=_hash(folder / "generation_config.json"),
    )


def _template_hash(folder: Path) -> str | None:
    template = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if template is None:
        return _hash(folder / "chat_template.jinja")
    return hashlib.sha256(json.dumps(template).encode()).hexdigest()[:16]


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = from_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# ------------------------------------------------------------------------------ beside the rows


class _Record(Row):
    engines: dict[str, tuple[Engine, ...]] = Field(default_factory=dict)  # name of a model -> its engines


def record(folder: Path, engines: Mapping[str, Iterable[Engine]]) -> None:
    """Adds engines to what this process has recorded for a stage's folder."""
    path = folder / f"engines.{this_owner()}.json"
    merged = _merged([_read(path).engines, engines])
    write_atomic(path, _Record(engines=merged).model_dump_json(indent=2).encode())


def recorded(folder: Path) -> dict[str, tuple[Engine, ...]]:
    """The engines of a stage's rows by the name of the model, over all processes that worked on it."""
    return _merged([_read(path).engines for path in sorted(folder.glob("engines.*.json"))])


def _read(path: Path) -> _Record:
    try:
        return _Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):  # a record that cannot be read is unknown
        return _Record()


def _merged(parts: Sequence[Mapping[str, Iterable[Engine]]]) -> dict[str, tuple[Engine, ...]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: tuple(dict.fromkeys(e for part in parts for e in part.get(name, ()))) for name in names}


# ------------------------------------------------------------------------------ for people


def words_of(engines: Iterable[Mapping[str, Any]], full: bool = False) -> str:
    """The engines of a report in words; "unknown" if none was recorded. `full`: with the model's files."""
    found = [Engine.model_validate(engine) for engine in engines]
    texts = (e.words + (_files(e) if full else "") for e in found)
    return " and ".join(dict.fromkeys(texts)) or UNKNOWN


def _files(engine: Engine) -> str:
    template, config = (value or UNKNOWN for value in (engine.chat_template, engine.generation_config))
    return f", chat template {template}, generation config {config}"


def lines(by_model: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Says which engines made the scores of the models, and whether they are different ones."""
    if not by_model:  # an evaluation from before engines were recorded
        return [f"engine: {UNKNOWN}"]
    words = {model: words_of(engines) for model, engines in by_model.items()}
    if len(set(words.values())) == 1:
        several = any(len(_without_model(engines)) > 1 for engines in by_model.values())
        return [f"{'made by different engines' if several else 'engine'}: {next(iter(words.values()))}"]
    return ["made by different engines: " + "; ".join(f"{model}: {text}" for model, text in words.items())]


def _without_model(engines: Sequence[Mapping[str, Any]]) -> set[str]:
    return {json.dumps({k: v for k, v in e.items() if k not in _BY_MODEL}, sort_keys=True) for e in engines}
