"""retort distills reasoning. `from pipeline import open_run; run = open_run("data/runs/demo")`.

Names are imported on first use, so `import pipeline` is free.
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
    module = "pipeline.inspect.run" if name in ("Run", "open_run") else "pipeline.rows"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
