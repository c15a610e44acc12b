"""Finds the Python interpreter with the tools that compress, which need other versions than the training."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pipeline import install_hints
from pipeline.compress.schemes import SCHEMES
from pipeline.config.compress import Compress
from pipeline.errors import UserError
from pipeline.hardware import has_gpu

VARIABLE = "RETORT_COMPRESS_PYTHON"
FOLDERS = (".venv-compress-gpu", ".venv-compress")  # as run.sh makes them
TIMEOUT = 120  # seconds
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def find(settings: Compress) -> Path:
    """The interpreter's path. Raises UserError if there is none."""
    named = settings.python or os.environ.get(VARIABLE)
    if named:
        where = "compress.python" if settings.python else VARIABLE
        python = Path(os.path.abspath(os.path.expanduser(named)))
        if not os.access(python, os.X_OK) or python.is_dir():
            raise UserError(f"{where} = {named}: no Python interpreter there")
        return python
    root = Path(__file__).resolve().parents[2]
    for folder in FOLDERS if has_gpu() else FOLDERS[1:]:
        python = root / folder / "bin" / "python"
        if python.is_file():
            return python
    raise UserError(
        "compress needs an interpreter of its own, which is not installed: "
        f"{install_hints.compress()}, or set {VARIABLE} to one"
    )


def check(settings: Compress) -> None:
    """Raises UserError if the interpreter or a package that the schemes need is missing."""
    python = find(settings)
    for scheme in settings.schemes:
        found = versions(python, SCHEMES[scheme].packages)
        if missing := [name for name, version in found.items() if version is None]:
            hint = install_hints.compress()
            raise UserError(f"{scheme} needs {', '.join(missing)}, which {python} does not have: {hint}")


def versions(python: Path, packages: Iterable[str]) -> dict[str, str | None]:
    """The versions of these distributions in an interpreter; None for a missing one."""
    return _versions(str(python), tuple(packages))


def version(settings: Compress, package: str) -> str | None:
    """The version of a distribution in the interpreter that `find` names; None if it is missing."""
    return versions(find(settings), (package,))[package]


@lru_cache
def _versions(python: str, packages: tuple[str, ...]) -> dict[str, str | None]:
    command = [python, "-I", "-c", _VERSIONS, *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        found: dict[str, str | None] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise UserError(f"{shlex.quote(python)} does not run as a Python interpreter") from None
    return found
