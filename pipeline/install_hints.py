"""The command that installs a missing package, in a clone and where retort is installed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from pipeline import shipped

DISTRIBUTION = "retort-distill"  # as in pyproject.toml; `retort` on PyPI is another project
RUN_SH = shipped.PACKAGE.parent / "run.sh"  # in a clone
RUN_SH_EXTRAS = ("train", "qlora", "vllm", "report")  # extras that run.sh installs


def extra(name: str) -> str:
    """Returns the command that installs an extra of pyproject.toml."""
    root = RUN_SH.parent
    if not RUN_SH.is_file():
        return package(f"{DISTRIBUTION}[{name}]")
    set_up = Path(sys.prefix, "install.log").is_file() and Path(sys.prefix).resolve().parent == root
    if name in RUN_SH_EXTRAS and set_up:
        return f"{shlex.quote(_shown(RUN_SH))} setup"
    return package("-e", f"{_shown(root)}[{name}]")


def compress() -> str:
    """Returns the command that installs the interpreter of [compress], in a clone and elsewhere."""
    if RUN_SH.is_file():
        return f"{shlex.quote(_shown(RUN_SH))} setup compress"
    return f"{shipped.page('compressing.md')} says how"


def program() -> str:
    """Returns the program for a script to start: in a clone ./run.sh, which its folder must have."""
    return "./run.sh" if RUN_SH.is_file() else str(Path(sys.executable).with_name("retort"))


def package(*words: str) -> str:
    """Returns the pip command for a package; `words` are pip's arguments, options included.

    It is the pip of the running Python, since the shell's may belong to another one.
    """
    return shlex.join([_shown(Path(sys.executable)), "-m", "pip", "install", *words])


def _shown(path: Path) -> str:
    """Shortens a path to how it is typed in the current folder: ./run.sh, or a dot for the folder."""
    here = Path.cwd()
    if path == here:
        return "."
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
