"""The demo over seeds and objectives: what the student learns from text, from soft labels, from its teacher.

    python -m tests.benchmarks.objectives [--seeds 3] [--objectives sft,soft,online] [--runs data/objectives]

For each seed the demo is run whole, with the teacher's log-probabilities kept; the other objectives train on
a copy of its examples, so nothing is drawn twice but the answers of what differs: the student, and for
`logit_kd` its base too. There the `sft` student is the teacher beside a student cut from it to --layers layers:
the demo's own teacher knows how to answer only from the examples in its prompt, which the student does not
see. The same command goes on where it stopped; --dry-run lists the commands alone.
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
DRAWN = ("ingest", "generate", "filter", "select", "evaluate/*/teacher*")


@dataclass(frozen=True)
class Objective:
    settings: tuple[str, ...]
    copies: tuple[str, ...]  # folders of the sft run that hold for it too
    stages: tuple[str, ...]


def objectives(layers: int, epochs: int, first: Path) -> dict[str, Objective]:
    """`sft` draws everything, as the run `first`; a student that is cut needs longer to recover."""
    taught = first.resolve() / "train" / "model"
    cut = (
        "train.objective=logit_kd",
        f"student.model={taught}",
        f"student.layers={layers}",
        f'train.logit_kd.teachers=[{{model="{taught}"}}]',
        f"train.epochs={epochs}",
    )
    again = ("train", "evaluate")
    return {
        "sft": Objective((), (), ("run",)),
        "topk_kd": Objective(("train.objective=topk_kd",), (*DRAWN, "evaluate/*/base"), again),
        "logit_kd": Objective(cut, DRAWN, again),
    }


def name_of(objective: str, seed: int) -> str:
    return f"demo-{seed}" + ("" if objective == "sft" else f"-{objective}")


def commands(recipe: Path, runs: Path, name: str, seed: int, objective: Objective) -> list[list[str]]:
    settings = [f"run={name}", f"seed={seed}", "generate.logprobs=20", *objective.settings]
    line = [sys.executable, "-m", "pipeline", "--runs", str(runs)]
    return [[*line, stage, str(recipe), *settings] for stage in objective.stages]


def copy(run: Path, to: Path, patterns: Sequence[str]) -> None:
    """What holds for both, whole or not at all."""
    if to.exists():
        return
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for pattern in patterns:
        for folder in run.glob(pattern):
            shutil.copytree(folder, part / folder.relative_to(run))
    part.rename(to)


def complete(run: Path) -> bool:
    return Output(run / "evaluate", Score).complete


def pass_at_1(run: Path, subject: str) -> dict[str, float]:
    """Share of right answers by problem."""
    rows = open_run(run).scores
    return {s.problem_id: s.correct / s.samples for s in rows if s.model_role == subject}


def training_seconds(run: Path) -> float:
    return sum(event["seconds"] for event in open_run(run).events() if event["stage"] == "train")


def line_of(objective: str, runs: Sequence[Path]) -> str:
    """One line of the table. Its interval is over problems, whose value is the mean over the seeds."""
    pooled: dict[str, dict[str, list[float]]] = {}
    for subject in ("student", "teacher", "base"):
        pooled[subject] = defaultdict(list)
        for run in runs:
            for problem, share in pass_at_1(run, subject).items():
                pooled[subject][problem].append(share)
    middle, low, high = mean([statistics.mean(v) for v in pooled["student"].values()])
    teacher, base = (
        f"{statistics.mean(map(statistics.mean, pooled[subject].values())):.1%}"
        for subject in ("teacher", "base")
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
    parser.add_argument("--objectives", default="sft,soft,online")
    parser.add_argument("--layers", type=int, default=24, help="of the student of `logit_kd`")
    parser.add_argument("--epochs", type=int, default=4, help="of the training of `logit_kd`")
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--runs", type=Path, default=Path("data/objectives"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    done: dict[str, list[Path]] = {name: [] for name in options.objectives.split(",")}
    for seed in range(1, options.seeds + 1):
        known = objectives(options.layers, options.epochs, options.runs / name_of("sft", seed))
        for name in done:
            run = options.runs / name_of(name, seed)
            bring(run, options, seed, known[name])
            done[name] += [run] if complete(run) else []
    print(table(done))


def bring(run: Path, options: argparse.Namespace, seed: int, objective: Objective) -> None:
    """Bring one run to its end; end the benchmark where a command fails."""
    if complete(run):
        return
    lines = commands(options.recipe, options.runs, run.name, seed, objective)
    if options.dry_run:
        print("\n".join(map(shlex.join, lines)))
        return
    if objective.copies:
        first = options.runs / name_of("sft", seed)
        if not complete(first):
            sys.exit(f"{first} is not complete: have sft among the --objectives, and before the others")
        copy(first, run, objective.copies)
    for line in lines:
        if code := subprocess.run(line).returncode:
            sys.exit(code)


if __name__ == "__main__":
    main()
