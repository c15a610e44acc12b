"""Runs or checks every command and code block of README.md and of the hand-written pages of docs/.

RUN: commands that are run, on the small run below as `demo`, and on the fake server where one is named.
CHECKED: commands that take minutes, a GPU, a model hub or a token. Their arguments are parsed and their
recipe is loaded. A command in neither table fails a test. test_real.py runs the demo itself.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from filters.table import check_rules
from pipeline.cli.main import cli
from pipeline.config.load import load_recipe, parse_recipe
from tests import docs
from tests.conftest import FakeServer
from tests.e2e.runs import ROOT, retort, run_stages

WRITTEN = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in docs.PAGES]
TEXT = "\n".join(path.read_text() for path in (ROOT / "README.md", *WRITTEN))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
SPANS = re.findall(r"`([^`\n]+)`", PROSE)
RUN = (
    "generate pipeline/recipes/demo.toml",
    "status demo",
    "why demo",
    "show demo",
    "teachers demo",
    "report demo",
    "diff demo other",
    "completion bash",
    "evaluate --model NAME --base-url",
    "publish demo --to published/demo",
    "verify --gold",
)
CHECKED = (
    "check pipeline/recipes/",
    "run pipeline/recipes/",
    "run recipe.toml",
    "compress",
    "evaluate --model Qwen/Qwen3-32B",
    "evaluate recipe.toml",
    "ablate my.toml",
    "publish demo --to hub:OWNER/NAME",
    "chat",
    "serve demo",
    "view demo",
)
PLACEHOLDERS = ("RECIPE", "ARGS", "WORDS")
SCRIPT = ("", "test", "setup", "setup compress")  # commands of run.sh itself
BASE = """
run = "readme"
[[ingest.sources]]
kind = "file"
path = "problems.jsonl"
[teacher]
model = "teacher"
base_url = "http://127.0.0.1:1/v1"
[generate]
prompt = "plain"
[student]
model = "org/student"
"""


def blocks(language: str) -> list[str]:
    return [text for given, text in BLOCKS if given == language]


def commands() -> list[str]:
    """The arguments of ./run.sh, in blocks and in the text."""
    text = "\n".join(blocks("bash")).replace("\\\n", "")  # a backslash continues a line
    lines = [line for line in text.splitlines() if line.strip()]
    lines += [span for span in SPANS if span.startswith("./run.sh") and not span.endswith(PLACEHOLDERS)]
    lines = [re.sub(r'^eval "\$\((.*?)\)"', r"\1", line) for line in lines]
    return [" ".join(line.split("  #")[0].split()).removeprefix("./run.sh").strip() for line in lines]


def named(command: str, table: tuple[str, ...]) -> bool:
    return any(command == start or (start and command.startswith(start)) for start in table)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    server = FakeServer("--correct", "0.5")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: FakeServer) -> Path:
    """A folder with data/runs/demo: the demo's recipe with the fake server, from ingest to select."""
    folder = tmp_path_factory.mktemp("readme")
    text = (ROOT / "pipeline" / "recipes" / "demo.toml").read_text()
    teacher, rest = text.split("[generate]", 1)
    teacher = re.sub(
        r"(?s)\[teacher\].*", f'[teacher]\nmodel = "fake"\nbase_url = "{server.url}"\n\n', teacher
    )
    (folder / "demo.toml").write_text(f"{teacher}[generate]{rest}")
    runs, settings = folder / "data" / "runs", ("ingest.sources.0.limit=20",)
    run_stages(runs, folder / "demo.toml", "ingest", "generate", "filter", "select", settings=settings)
    run = folder / "data" / "runs" / "demo"
    for stage in ("generate", "filter"):  # as if the student had answered
        shutil.copytree(run / stage, run / "evaluate" / "held_out" / "student" / stage)
    shutil.copytree(run, run.with_name("other"))
    (folder / "aime.jsonl").write_text('{"question": "What is 2 + 3?", "answer": "5"}\n')
    return folder


def retort_in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return retort(folder / "data" / "runs", *shlex.split(command))


def test_every_command_is_in_one_table() -> None:
    assert len(commands()) > 10
    for command in commands():
        script = command in SCRIPT or command.startswith("test -m")
        found = [named(command, RUN), named(command, CHECKED), script]
        assert found.count(True) == 1, f"./run.sh {command}: add it to a table of this file"


@pytest.mark.parametrize("command", [c for c in dict.fromkeys(commands()) if named(c, RUN)])
def test_a_command_runs(command: str, folder: Path, server: FakeServer) -> None:
    command = command.replace("pipeline/recipes/demo.toml", f"{folder}/demo.toml ingest.sources.0.limit=20")
    command = command.replace("--model NAME", "--model fake")
    command = command.replace("http://127.0.0.1:8000/v1", server.url).replace(
        "aime.jsonl", f"{folder}/aime.jsonl"
    )
    done = retort_in(folder, command.replace("published/", f"{folder}/published/"))
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr


@pytest.mark.parametrize("command", [c for c in commands() if named(c, CHECKED)])
def test_a_command_that_is_not_run_parses_and_its_recipe_loads(command: str) -> None:
    name, *words = shlex.split(command)
    context = cli.commands[name].make_context(name, words, parent=click.Context(cli, **cli.context_settings))
    for path in (word for word in words if word.endswith(".toml") and "/" in word):
        load_recipe(ROOT / path, context.params["overrides"])


def test_the_script_has_its_own_commands() -> None:
    text = (ROOT / "run.sh").read_text()
    assert subprocess.run(["bash", "-n", str(ROOT / "run.sh")]).returncode == 0
    assert all(f"\n{word})" in text for word in ("setup", "test", '""'))


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_toml_block_is_part_of_a_recipe(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            Path(name[1]).write_text(block)
    recipe: dict[str, Any] = tomllib.loads(BASE)
    for name, table in tomllib.loads(text).items():
        merged = isinstance(table, dict) and name != "teacher"
        recipe[name] = recipe.get(name, {}) | table if merged else table
    check_rules(parse_recipe(recipe, (), "README").filter.rules)


def test_settings_in_the_text_exist(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(BASE)
    settings = [span for span in SPANS if re.fullmatch(r"(?:[a-z_]+\.)+[a-z_]+=\S+", span)]
    assert settings
    for setting in settings:
        load_recipe(path, [setting])


@pytest.mark.parametrize("text", blocks("python"))
def test_a_python_block_runs(text: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_modules_in_the_text_exist() -> None:
    figures = (ROOT / "docs" / "figures.md").read_text()
    modules = re.findall(r"python -m ([\w.]+\w)", TEXT)
    names = re.findall(r"^\| `(\w+)[^`]*` \|", figures, flags=re.MULTILINE)
    modules += [f"tests.benchmarks.{name}" for name in names]
    assert len(modules) > 5
    for module in (m for m in modules if not m.endswith("NAME")):
        assert importlib.util.find_spec(module), module


def test_commands_in_the_text_exist() -> None:
    words = [span.split()[1] for span in SPANS if re.fullmatch(r"retort [a-z]+.*", span)]
    assert words
    assert set(words) <= set(cli.commands)
