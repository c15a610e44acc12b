"""retort distills reasoning.

>>> from pipeline import open_run
>>> run = open_run("demo")  # its name in data/runs, or a folder

Names are imported on first use, so `import pipeline` is free.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inspect.run import Run, open_run
    from pipeline.model_rows import Score
    from pipeline.rows import Example, Problem, Trace, Verdict
    from pipeline.run_stages import run_recipe, run_stage

__version__ = "0.1.0"
_MODULES = {
    **dict.fromkeys(("Example", "Problem", "Trace", "Verdict"), "pipeline.rows"),
    "Score": "pipeline.model_rows",
    **dict.fromkeys(("Run", "open_run"), "pipeline.inspect.run"),
    **dict.fromkeys(("run_recipe", "run_stage"), "pipeline.run_stages"),
}
__all__ = ["Example", "Problem", "Run", "Score", "Trace", "Verdict", "open_run", "run_recipe", "run_stage"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
