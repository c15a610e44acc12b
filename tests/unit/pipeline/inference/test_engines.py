"""What is recorded of the engine behind a model: what the server tells, unknown otherwise."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.engine.subprocess_guard import Child
from pipeline.inference import engines
from pipeline.inference.engines import Engine
from pipeline.inference.vllm_server import Server
from tests.serving import serving

VLLM = {"data": [{"id": "m", "owned_by": "vllm"}]}


def described(models: Any, version: Any, server: str = "uvicorn", **here: Any) -> Engine:
    async def answer(http: web.Request) -> web.StreamResponse:
        told = ("/version", "/props", "/get_server_info")
        body = models if http.path.endswith("/models") else version if http.path in told else None
        if body is None:
            return web.Response(status=404)
        return web.Response(text=json.dumps(body), headers={"Server": server})

    async def ask() -> list[Engine]:
        async with serving(answer) as url:
            endpoint = Endpoint(model="m", base_url=url, vllm=here.pop("vllm", {}))
            return await engines.describe(endpoint, Server((url,), "m", **here))

    [engine] = asyncio.run(ask())
    return engine


def test_vllm_tells_its_version() -> None:
    engine = described(VLLM, {"version": "0.32.0"})
    assert engine == Engine(name="vllm", version="0.32.0", server="uvicorn")
    assert engine.words == "vllm 0.32.0, unknown dtype, unknown quantization, unknown GPU"


def test_llama_cpp_and_sglang_tell_their_versions() -> None:
    owned = [{"data": [{"id": "m", "owned_by": owner}]} for owner in ("llamacpp", "sglang")]
    assert described(owned[0], {"build_info": "b6123-1a2b3c4"}).version == "b6123-1a2b3c4"
    assert described(owned[1], {"version": "0.5.2", "api_key": "secret"}) == Engine(
        name="sglang", version="0.5.2", server="uvicorn"
    )


def test_what_is_known_of_a_program_started_here_is_not_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    monkeypatch.chdir(tmp_path)
    known = {"name": "xllamacpp", "version": "2026.1", "quantization": "gguf-q8_0", "gpu": "none"}
    owned = {"data": [{"id": "m", "owned_by": "llamacpp"}]}
    with Child(["sleep", "60"], tmp_path / "log") as child:
        engine = described(owned, {"build_info": "b0-unknown"}, "llama.cpp", child=child, engine=known)
    assert engine == Engine(**known, server="llama.cpp")
    assert engine.words == "xllamacpp 2026.1, unknown dtype, gguf-q8_0, CPU"


@pytest.mark.parametrize("version", [None, [], {"version": 7}, {"version": "0.32\n<b>"}, "0.32"])
def test_a_server_that_tells_nothing_usable_is_unknown(version: Any) -> None:
    assert described(VLLM, version).version is None
    assert described({"data": 7}, version, server="cloudflare").words == "unknown (server cloudflare)"


def test_a_model_served_here_is_described_by_its_files(tmp_path: Path) -> None:
    config = {"dtype": "bfloat16", "quantization_config": {"quant_method": "compressed-tensors"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with Child(["sleep", "60"], tmp_path / "log") as child:
        here = {"child": child, "path": str(tmp_path), "vllm": {"dtype": "auto"}}
        engine = described(VLLM, {"version": "0.32.0"}, **here)
    assert (engine.dtype, engine.quantization) == ("auto (bfloat16)", "compressed-tensors")
    assert len(engine.chat_template or "") == 16
    assert engine.generation_config is None


def test_all_engines_of_a_resumed_stage_are_listed(tmp_path: Path) -> None:
    old, new = (Engine(name="vllm", version=version, dtype="bfloat16") for version in ("0.31.0", "0.32.0"))
    for engine in (old, new, old):
        engines.record(tmp_path, {"m": [engine]})
    assert engines.recorded(tmp_path) == {"m": (old, new)}
    [line] = engines.lines({"student": [old.model_dump(), new.model_dump()]})
    assert line.startswith("made by different engines: vllm 0.31.0, bfloat16")
    assert "and vllm 0.32.0" in line


def test_scores_of_different_engines_say_so() -> None:
    old, new = ([Engine(name="vllm", version=version).model_dump()] for version in ("0.31.0", "0.32.0"))
    assert engines.lines({}) == ["engine: unknown"]
    assert engines.lines({"base": [], "student": []}) == ["engine: unknown"]
    [same] = engines.lines({"base": old, "student": old})
    assert same.startswith("engine: vllm 0.31.0")
    [line] = engines.lines({"base": old, "student": new, "teacher": []})
    assert line.startswith("made by different engines: base: vllm 0.31.0")
    assert line.endswith("teacher: unknown")


def test_a_damaged_record_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "engines.0.json").write_text("{")
    assert engines.recorded(tmp_path) == {}
