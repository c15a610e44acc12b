"""Compares the training objectives on the demo, over several seeds.

    python -m tests.benchmarks.objectives [--seeds 3] [--objectives sft,topk_kd,logit_kd] [--runs FOLDER]

For each seed the whole demo runs with the teacher's log-probabilities stored. The other objectives train on a
copy of its examples, so only what differs is sampled again: the student's answers and, for `logit_kd`, its
base's. There the `sft` student teaches a copy of itself pruned to --layers layers, since the demo's own
teacher answers well only with the examples in its prompt, which the student does not see. The same command
resumes; --dry-run only lists the commands.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.store import Output
from pipeline.evaluate.bootstrap import mean
from pipeline.inspect.run import open_run
from pipeline.rows import Score

DEMO = Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "demo.toml"
SHARED = ("ingest", "generate", "filter", "select", "evaluate/*/teacher*")


@dataclass(frozen=True)
class Variant:
    settings: tuple[str, ...]
    copies: tuple[str, ...]  # folders taken from the sft run
    stages: tuple[str, ...]


def variants(layers: int, epochs: int, first: Path) -> dict[str, Variant]:
    """By objective. `sft` is the run `first`; a pruned student needs more epochs to recover."""
    sft_student = first.resolve() / "train" / "model"
    pruned = (
        "train.objective=logit_kd",
        f"student.model={sft_student}",
        f"student.layers={layers}",
        f'train.logit_kd.teachers=[{{model="{sft_student}"}}]',
        f"train.epochs={epochs}",
    )
    again = ("train", "evaluate")
    return {
        "sft": Variant((), (), ("run",)),
        "topk_kd": Variant(("train.objective=topk_kd",), (*SHARED, "evaluate/*/base"), again),
        "logit_kd": Variant(pruned, SHARED, again),
    }


def name_of(objective: str, seed: int) -> str:
    return f"demo-{seed}" + ("" if objective == "sft" else f"-{objective}")


def commands(recipe: Path, runs: Path, name: str, seed: int, variant: Variant) -> list[list[str]]:
    settings = [f"run={name}", f"seed={seed}", "generate.logprobs=20", *variant.settings]
    line = [sys.executable, "-m", "pipeline", "--runs", str(runs)]
    return [[*line, stage, str(recipe), *settings] for stage in variant.stages]


def copy(run: Path, to: Path, patterns: Sequence[str]) -> None:
    """Copies the folders that match, all or none."""
    if to.exists():
        return
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for pattern in patterns:
        for folder in run.glob(pattern):
            shutil.copytree(folder, part / folder.relative_to(run))
    part.rename(to)


def is_complete(run: Path) -> bool:
    return Output(run / "evaluate", Score).complete


def pass_at_1(run: Path, role: str) -> dict[str, float]:
    """Fraction of correct samples by problem."""
    rows = open_run(run).scores
    return {s.problem_id: s.correct / s.samples for s in rows if s.model_role == role}


def training_seconds(run: Path) -> float:
    return sum(event["seconds"] for event in open_run(run).events() if event["stage"] == "train")


def line_of(objective: str, runs: Sequence[Path]) -> str:
    """One line of the table. Its interval is over problems, each a mean over the seeds."""
    pooled: dict[str, dict[str, list[float]]] = {}
    for role in ("student", "teacher", "base"):
        pooled[role] = defaultdict(list)
        for run in runs:
            for problem, share in pass_at_1(run, role).items():
                pooled[role][problem].append(share)
    middle, low, high = mean([statistics.mean(v) for v in pooled["student"].values()])
    teacher, base = (
        f"{statistics.mean(map(statistics.mean, pooled[role].values())):.1%}" for role in ("teacher", "base")
    )
    each = ", ".join(f"{statistics.mean(pass_at_1(run, 'student').values()):.1%}" for run in runs)
    seconds = statistics.mean(map(training_seconds, runs))
    cells = (objective, f"{middle:.1%} [{low:.1%}, {high:.1%}]", each, teacher, base, f"{seconds:.0f} s")
    return f"| {' | '.join(cells)} |"


def table(runs: dict[str, list[Path]]) -> str:
    head = ("objective", "student, pass@1 [95 %]", "each seed", "teacher", "base", "training, mean")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join(lines + [line_of(name, done) for name, done in runs.items() if done])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", default="sft,topk_kd,logit_kd")
    parser.add_argument("--layers", type=int, default=24, help="of the student of `logit_kd`")
    parser.add_argument("--epochs", type=int, default=4, help="of the training of `logit_kd`")
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--runs", type=Path, default=Path("data/objectives"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    done: dict[str, list[Path]] = {name: [] for name in options.objectives.split(",")}
    for seed in range(1, options.seeds + 1):
        known = variants(options.layers, options.epochs, options.runs / name_of("sft", seed))
        for name in done:
            run = options.runs / name_of(name, seed)
            complete_run(run, options, seed, known[name])
            done[name] += [run] if is_complete(run) else []
    print(table(done))


def complete_run(run: Path, options: argparse.Namespace, seed: int, variant: Variant) -> None:
    """Completes one run; ends the benchmark when a command fails."""
    if is_complete(run):
        return
    lines = commands(options.recipe, options.runs, run.name, seed, variant)
    if options.dry_run:
        print("\n".join(map(shlex.join, lines)))
        return
    if variant.copies:
        first = options.runs / name_of("sft", seed)
        if not is_complete(first):
            sys.exit(f"{first} is not complete: list sft first in --objectives")
        copy(first, run, variant.copies)
    for line in lines:
        if code := subprocess.run(line).returncode:
            sys.exit(code)


if __name__ == "__main__":
    main()
