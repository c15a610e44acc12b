"""Compares ways to select training examples from the traces of a finished run.

    python -m tests.benchmarks.selection RUN [--prefer first,natural,ratio,short] [--seeds 3] [--runs FOLDER]

All selections take --per-problem examples of each problem from the same traces, so all cost the same number
of sampled teacher tokens. The untrained student reads the traces once. For each preference and seed a student
is then trained on a copy of the run and evaluated on the same problems with the same seed. The table has the
difference to the first preference, paired by problem; its interval is over problems, each a mean over the
seeds. --recipe must be that of the run. The same command resumes; --dry-run only lists the commands.

A cell of the demo takes about 5 minutes on two quiet cores; --set train.epochs=1 and the like shorten it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.evaluate.bootstrap import mean
from pipeline.inspect.format import interval
from pipeline.inspect.run import open_run
from tests.benchmarks.objectives import DEMO, copy, is_complete, pass_at_1

SHARED = ("ingest", "generate", "filter", "score", "evaluate/*/teacher*", "evaluate/*/base")
NEED_SCORES = ("natural", "ratio")
Cells = Mapping[str, Sequence[Path]]  # preference -> its completed runs, one a seed


def take(run: Path, to: Path) -> Path:
    """Copies what the cells share, with the record of its settings."""
    copy(run, to, SHARED)
    shutil.copy(run / "recipe.json", to / "recipe.json")
    return to


def command(options: argparse.Namespace, stage: str, run: str, *settings: str) -> list[str]:
    line = [sys.executable, "-m", "pipeline", "--runs", str(options.runs), stage, str(options.recipe)]
    score = ("score.precision=auto",) if options.scores else ()
    return [*line, f"run={run}", f"seed={options.seed}", *score, *settings, *options.settings]


def cell_commands(options: argparse.Namespace, name: str, prefer: str, seed: int) -> list[list[str]]:
    """The seed is that of examples and training alone: evaluate samples all students with the run's own."""
    chosen = (f"select.prefer={prefer}", f"select.per_problem={options.per_problem}")
    trained = [command(options, stage, name, *chosen, f"seed={seed}") for stage in ("select", "train")]
    return [*trained, command(options, "evaluate", name, *chosen)]


def run_all(lines: Sequence[Sequence[str]], dry_run: bool) -> None:
    """Runs the commands; ends the benchmark when one fails."""
    for line in lines:
        if dry_run:
            print(shlex.join(line))
        elif code := subprocess.run(line).returncode:
            sys.exit(code)


def complete_cell(options: argparse.Namespace, scored: Path, prefer: str, seed: int) -> Path:
    run: Path = options.runs / f"{options.run.name}-{prefer}-{seed}"
    if not is_complete(run):
        if not options.dry_run and not run.exists():
            take(scored, run)
        run_all(cell_commands(options, run.name, prefer, seed), options.dry_run)
    return run


def by_problem(runs: Sequence[Path]) -> dict[str, float]:
    """Problem -> the student's pass@1, a mean over the seeds."""
    pooled: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for problem, share in pass_at_1(run, "student").items():
            pooled[problem].append(share)
    return {problem: statistics.mean(shares) for problem, shares in pooled.items()}


def line_of(prefer: str, runs: Sequence[Path], baseline: Mapping[str, float]) -> str:
    ours = by_problem(runs)
    if ours.keys() != baseline.keys():
        sys.exit(f"{prefer}: it was evaluated on other problems than the first preference")
    examples = [open_run(run).examples for run in runs]
    tokens = [sum(e.tokens or 0 for e in rows) for rows in examples]
    each = ", ".join(f"{statistics.mean(pass_at_1(run, 'student').values()):.1%}" for run in runs)
    cells = [prefer, f"{statistics.mean(map(len, examples)):.0f}", f"{statistics.mean(tokens):,.0f}"]
    cells += [interval(mean(list(ours.values()))), each]
    paired = mean([ours[p] - baseline[p] for p in ours], least=-1)
    cells.append("" if ours == baseline else interval(paired, " points"))
    return f"| {' | '.join(cells)} |"


def table(cells: Cells) -> str:
    first = next(iter(cells))
    names = ("prefer", "examples", "their tokens", "student, pass@1 [95 %]", "each seed", f"minus {first}")
    baseline = by_problem(cells[first])
    lines = [line_of(prefer, runs, baseline) for prefer, runs in cells.items()]
    return "\n".join([f"| {' | '.join(names)} |", "|" + " --- |" * len(names), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run; it is only read")
    parser.add_argument("--prefer", default="first,natural,ratio,short", help="the first is compared with")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-problem", type=int, default=1)
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--runs", type=Path, default=Path("data/selection"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    names = options.prefer.split(",")
    options.seed = open_run(options.run).recipe.seed
    options.scores = any(name in NEED_SCORES for name in names)
    scored: Path = options.runs / f"{options.run.name}-scored"
    if not options.dry_run and not scored.exists():
        options.runs.mkdir(parents=True, exist_ok=True)
        take(options.run, scored)
    if options.scores:
        run_all([command(options, "score", scored.name)], options.dry_run)
    seeds = range(1, options.seeds + 1)
    cells = {name: [complete_cell(options, scored, name, seed) for seed in seeds] for name in names}
    if not options.dry_run:
        print(table(cells))


if __name__ == "__main__":
    main()
