"""retort: distil reasoning. `from pipeline import open_run; run = open_run("data/runs/demo")`.

Names are imported when they are first used, so `import pipeline` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inspect.run import Run, open_run
    from pipeline.rows import Example, Problem, Score, Trace, Verdict

__version__ = "0.1.0"
__all__ = ["Example", "Problem", "Run", "Score", "Trace", "Verdict", "open_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(
        importlib.import_module("pipeline.inspect.run" if name in ("Run", "open_run") else "pipeline.rows"),
        name,
    )
