"""`retort check`, and the same checks at the start of `retort run`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import hardware
from pipeline.check import requirements
from pipeline.config import Recipe
from tests import tiny_student
from tests.conftest import StartFakeServer
from tests.e2e.runs import retort, write_recipe
from tests.e2e.test_recipes import FOLDER, local, rehearsal
from tests.stand_in_hub import Hub

pytestmark = pytest.mark.slow

QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151_936}
CONFIGS: dict[str, dict[str, Any]] = {  # sizes from the models' config.json, and bytes of the weights
    "Qwen/Qwen2.5-1.5B": {"layers": (28, 1536, 8960, 12, 2), "tied": True, "bytes": 3_087_467_144},
    "Qwen/Qwen2.5-7B": {"layers": (28, 3584, 18_944, 28, 4), "tied": False, "bytes": 15_231_233_024},
    "Qwen/Qwen3-32B-FP8": {"layers": (64, 5120, 25_600, 64, 8), "tied": False, "bytes": 33_400_000_000},
}
DROPS_THOUGHTS = tiny_student.CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")


def config_of(name: str) -> dict[str, Any]:
    sizes = CONFIGS[name]
    layers, hidden, intermediate, heads, kv_heads = sizes["layers"]
    return QWEN | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 131_072 if name != "Qwen/Qwen3-32B-FP8" else 40_960,
        "tie_word_embeddings": sizes["tied"],
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Starts a hub with the recipes' models: configs, a tokenizer and the sizes of the weights."""
    tiny_student.tokenizer().save_pretrained(tmp_path / "tokenizer")
    shared = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    with Hub() as made:
        for alias, name in {
            "Qwen/Qwen2.5-1.5B": "Qwen/Qwen2.5-1.5B",
            "Qwen/Qwen2.5-1.5B-Instruct": "Qwen/Qwen2.5-1.5B",
            "Qwen/Qwen2.5-7B": "Qwen/Qwen2.5-7B",
            "Qwen/Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B",
            "Qwen/Qwen3-32B-FP8": "Qwen/Qwen3-32B-FP8",
        }.items():
            weights = f"{name.replace('/', '-')}.safetensors"
            files = {"config.json": json.dumps(config_of(name)).encode(), weights: b""}
            made.files[f"models/{alias}"] = shared | files
            made.sizes[weights] = CONFIGS[name]["bytes"]
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield made


@pytest.fixture
def gpus() -> Iterator[Any]:
    yield hardware.assume
    hardware.assume(0, 1)


def recipe_of(name: str, url: str, folder: Path) -> Recipe:
    """Returns a shipped recipe with small local files as sources, and its own models."""
    import tomllib

    given = rehearsal(name, url, folder).model_dump(mode="json", exclude_defaults=True)
    whole = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    if "serve" in whole["teacher"]:
        given["teacher"] = whole["teacher"]
    for number, made in enumerate(given.get("evaluate", {}).get("sets", ())):
        made["sources"] = [local(source, folder, 90 + number) for source in made["sources"]]
    return Recipe.model_validate(given)


@pytest.mark.parametrize(("name", "machine_of"), [("gsm8k", (1, 24)), ("r1-math", (8, 80)), ("api", (1, 48))])
def test_a_shipped_recipe_fits_on_the_machine_it_names_and_not_on_a_small_one(
    name: str,
    machine_of: tuple[int, float],
    hub: Hub,
    gpus: Any,
    fake_server: StartFakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "installed" / "bitsandbytes").mkdir(parents=True)  # as `run.sh setup` installs it for GPUs
    (tmp_path / "installed" / "bitsandbytes" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "installed")
    recipe = recipe_of(name, fake_server().url, tmp_path)
    gpus(*machine_of)
    found = requirements.find(recipe, tmp_path / "run")
    of_disk = {"disk", "download"}  # some need 300 GB, which this machine may not have
    assert [each for each in found if each.state == "missing" and each.what not in of_disk] == []
    assert {"memory to serve", "memory to train", "chat template"} <= {
        each.what for each in found if each.state == "ok"
    }
    assert of_disk <= {each.what for each in found}
    gpus(machine_of[0], 8)
    small = {each.what for each in requirements.find(recipe, tmp_path / "run") if each.state == "missing"}
    assert "memory to train" in small


def test_run_checks_the_students_chat_template_before_it_pays_for_traces(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    tiny_student.save(tmp_path / "student")
    tiny_student.tokenizer(DROPS_THOUGHTS).save_pretrained(tmp_path / "student")
    server = fake_server()
    recipe = write_recipe(tmp_path, server.url)
    done = retort(
        tmp_path / "runs", "run", str(recipe), f"student.model={tmp_path / 'student'}", "ingest.held_out=0.25"
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the student's chat template drops the reasoning" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert server.stats()["requests"] == 0
    assert not (tmp_path / "runs" / "test" / "ingest" / "manifest.json").exists()


def test_a_missing_interpreter_of_compress_is_found_before_traces_are_paid_for(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    server = fake_server()
    recipe = write_recipe(tmp_path, server.url)
    settings = ("ingest.held_out=0.25", 'compress.schemes=["w8a8"]', "compress.python=/nowhere/python")
    refused = retort(tmp_path / "runs", "run", str(recipe), *settings)
    assert refused.returncode == 2
    assert refused.stderr.endswith("compress.python = /nowhere/python: no Python interpreter there\n")
    assert server.stats()["requests"] == 0
    assert not (tmp_path / "runs").exists()


def test_check_lists_everything_that_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    words = ("teacher.api_key_env=NO_SUCH_KEY", "student.model=./no-such-folder", "select.prompt=none")
    done = retort(tmp_path / "runs", "check", str(recipe), *words)
    assert done.returncode == 2
    missing = [line for line in done.stdout.splitlines() if line.startswith("missing")]
    assert [line.split()[1] for line in missing] == ["generate", "select", "train"]
    assert "NO_SUCH_KEY" in missing[0]
    assert not (tmp_path / "runs").exists()


def test_check_asks_a_server_for_its_models_and_reports_a_dead_one(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    server = fake_server()
    recipe = write_recipe(tmp_path, server.url)
    text = recipe.read_text()
    recipe.write_text(text[: text.index("[student]")])
    words = ("check", str(recipe), "ingest.held_out=0.2")
    alive = retort(tmp_path / "runs", *words)
    assert alive.returncode == 0, alive.stdout
    dead = retort(tmp_path / "runs", *words, "teacher.base_url=http://127.0.0.1:9/v1")
    assert dead.returncode == 2
    assert "missing" in dead.stdout
    assert server.stats()["requests"] == 0


def test_check_covers_the_target_of_publish(hub: Hub, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    recipe.write_text(recipe.read_text().partition("[student]")[0])  # no model to read, which takes seconds
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"}

    def line(to: str, **more: str) -> str:
        done = retort(tmp_path / "runs", "check", str(recipe), "--to", to, env=env | more)
        assert "hf_secret" not in done.stdout + done.stderr
        return next(line for line in done.stdout.splitlines() if line.split()[1] == "publish")

    assert line("hub:ours/traces").startswith("ok")
    assert line("hub:strangers/traces").startswith("missing")
    assert "no token" in line("hub:me/traces", HF_TOKEN="", HF_HOME=str(tmp_path / "empty"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    assert line(str(tmp_path / "taken")).startswith("missing")


@pytest.mark.parametrize("text", ["8", "x80", "0x80", "8x", "ax8"])
def test_a_malformed_machine_is_refused(text: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    done = retort(tmp_path / "runs", "check", str(recipe), "--gpus", text)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        f"retort: --gpus {text}: write how many and how large, e.g. 8x80",
    )
