"""What to type for a package that is missing: one answer in a clone, another where retort is installed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

DISTRIBUTION = "retort-distill"  # as in pyproject.toml; `retort` on PyPI is another project
_BY_THE_SCRIPT = ("train", "qlora", "vllm", "sql", "report")  # extras that run.sh installs


def extra(name: str) -> str:
    """The end of an error about what an extra of pyproject.toml brings."""
    root = Path(__file__).resolve().parents[1]
    script = root / "run.sh"
    if not script.is_file():
        return package(f"{DISTRIBUTION}[{name}]")
    made_by_it = Path(sys.prefix, "install.log").is_file() and Path(sys.prefix).resolve().parent == root
    if name in _BY_THE_SCRIPT and made_by_it:
        return f"{shlex.quote(_shown(script))} setup"
    return package("-e", f"{_shown(root)}[{name}]")


def package(*words: str) -> str:
    """The end of an error about any package; `words`: what pip is given, options too.

    The pip is that of the Python which runs: the shell's may be another one's.
    """
    return shlex.join([_shown(Path(sys.executable)), "-m", "pip", "install", *words])


def _shown(path: Path) -> str:
    """As it is typed from the current folder: ./run.sh, ./.venv/bin/python, a dot for the folder itself."""
    here = Path.cwd()
    if path == here:
        return "."
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
