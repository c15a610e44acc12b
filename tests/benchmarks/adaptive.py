"""The savings of adaptive sampling: n samples per problem, compared with target_kept = k of at most n.

    python -m tests.benchmarks.adaptive [--problems 80] [--samples 8] [--until 1]

Both use the same seeds and a real vLLM. A problem is covered if k of its traces are kept.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.config import Recipe
from pipeline.config.generate import Generate
from pipeline.engine.execute import execute
from pipeline.inspect.run import open_run
from pipeline.rows import Trace
from pipeline.stages import STAGES
from tests.benchmarks.serving import demo


def filtered(recipe: Recipe, run: Path, **settings: int) -> list[Trace]:
    """The filtered traces of a run with these settings of generate."""
    table = {k: v for k, v in recipe.generate.model_dump().items() if k != "samples"} | settings
    recipe = recipe.model_copy(update={"generate": Generate.model_validate(table)})
    for stage in ("ingest", "generate", "filter"):
        execute(STAGES[stage], recipe, run)
    return list(open_run(run).rows("filter"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--until", type=int, default=1)
    options = parser.parse_args()
    with demo(options.problems) as (recipe, serving, folder):
        (url,) = serving.base_urls
        there = recipe.teacher[0].model_copy(update={"serve": None, "base_url": url, "model": "teacher"})
        recipe = recipe.model_copy(update={"teacher": (there,)})
        fixed = filtered(recipe, folder / "fixed", samples=options.samples)
        adaptive = filtered(
            recipe, folder / "adaptive", target_kept=options.until, max_samples=options.samples
        )
    show(options, fixed, adaptive)


def show(options: argparse.Namespace, fixed: list[Trace], adaptive: list[Trace]) -> None:
    table = Table("", "traces", "tokens", "kept", "problems covered", box=None)
    names = (f"{options.samples} each", f"until {options.until}, at most {options.samples}")
    tokens = []
    for name, traces in zip(names, (fixed, adaptive), strict=True):
        kept = Counter(t.problem_id for t in traces if t.outcome == "kept")
        covered = sum(count >= options.until for count in kept.values())
        tokens.append(sum(t.completion_tokens or 0 for t in traces))
        table.add_row(name, str(len(traces)), f"{tokens[-1]:,}", str(kept.total()), str(covered))
    Console(width=100).print(table)
    print(f"{1 - tokens[1] / tokens[0]:.1%} fewer completion tokens")


if __name__ == "__main__":
    main()
