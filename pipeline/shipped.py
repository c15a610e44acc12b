"""Files that retort ships besides its code: recipes, prompts, the demo's problems, the documentation.

A path in a recipe or on the command line is relative to the current folder. If nothing is there, and one of
these files has that path in the repository, it is meant: `pipeline/recipes/fsdp2.yaml` and
`data/arithmetic.jsonl` are found from any folder, with a clone and without.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# A wheel has docs/ and data/ inside the package (pyproject.toml); in a clone they lie beside it.
_OTHERS = PACKAGE if (PACKAGE / "docs").is_dir() else PACKAGE.parent
DOCS = _OTHERS / "docs"
RECIPES = PACKAGE / "recipes"


@lru_cache
def files() -> dict[str, Path]:
    """Where the files are, by their paths in the repository."""
    folders = {"pipeline/recipes": RECIPES, "prompts": PACKAGE.parent / "prompts"}
    found = {f"{name}/{path.name}": path for name, folder in folders.items() for path in folder.glob("*.*")}
    return found | {"data/arithmetic.jsonl": _OTHERS / "data" / "arithmetic.jsonl"}


def find(path: str | Path) -> Path:
    """Returns the path, or that of the shipped file that it means."""
    given = Path(path)
    return given if given.exists() else files().get(given.as_posix(), given)


def page(name: str) -> str:
    """Returns where a page of the documentation is, for messages: docs/NAME in the folder of a clone."""
    path = DOCS / name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
