"""Compares the training objectives and the white-box terms on the demo, over several seeds.

    python -m tests.benchmarks.objectives [--seeds 3] [--objectives sft,topk_kd,logit_kd,...] [--runs FOLDER]

For each seed the whole demo runs with the teacher's log-probabilities stored. The others train on a copy of
its examples, so only what differs is sampled again: the student's answers and, for a pruned student, its
base's. What needs a teacher next to the student has the `sft` student as the teacher of a copy of itself
pruned to --layers layers, since the demo's own teacher answers well only with the examples in its prompt,
which the student does not see. `pruned` is that student trained by cross-entropy alone, with the same steps:
the one to compare with. `on_policy` trains the `pruned` student on, with its own samples, and `further` with
the same traces once more; `pruned` is their base.
`redi` and `dpo` train the `sft` student on, with its incorrect traces; it is their base. Differences are
paired by problem. The same command resumes; --dry-run only lists the commands. Memory is the highest of a
process of the training.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.store import Output
from pipeline.evaluate.bootstrap import mean
from pipeline.inspect.run import open_run
from pipeline.model_rows import Score

DEMO = Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "demo.toml"
AGAINST = {"sft": "", "topk_kd": "sft", "redi": "sft", "dpo": "sft", "pruned": ""}  # the others: pruned
SHARED = ("ingest", "generate", "filter", "select", "evaluate/*/teacher*")


@dataclass(frozen=True)
class Variant:
    settings: tuple[str, ...]
    copies: tuple[str, ...]  # folders taken from the sft run
    stages: tuple[str, ...]


def variants(layers: int, epochs: int, rate: float, first: Path) -> dict[str, Variant]:
    """By name. `sft` is the run `first`; a pruned student needs more epochs to recover."""
    sft_student = first.resolve() / "train" / "model"
    pruned = (f"student.model={sft_student}", f"student.layers={layers}", f"train.epochs={epochs}")
    soft = ("train.objective=logit_kd", f'train.logit_kd.teachers=[{{model="{sft_student}"}}]')
    term = (f"train.term_teacher={sft_student}",)
    slowly = f"train.learning_rate={rate}"
    pruned_student = first.resolve().with_name(f"{first.name}-pruned") / "train" / "model"
    further = (f"student.model={pruned_student}", "train.epochs=2", slowly)
    on_policy = (
        "train.objective=on_policy",
        f"train.on_policy.teacher={sft_student}",
        "train.on_policy.max_tokens=96",
        "train.packing=false",
    )
    pairs = ("select.rejected=true", f"student.model={sft_student}", "train.epochs=1", slowly)
    graded, anew = ("ingest", "generate", "filter", "evaluate/*/teacher*"), ("select", "train", "evaluate")
    again = ("train", "evaluate")
    whole = ("ingest", "generate", "filter", "select", *again)
    return {
        "sft": Variant((), (), whole),
        "topk_kd": Variant(
            ("train.objective=topk_kd", "train.topk_kd.prompt=teacher"), (*SHARED, "evaluate/*/base"), again
        ),
        "pruned": Variant(pruned, SHARED, again),
        "logit_kd": Variant((*soft, *pruned), SHARED, again),
        "features": Variant((*pruned, *term, "train.features.weight=1"), SHARED, again),
        "attention_transfer": Variant((*pruned, *term, "train.attention_transfer.weight=1"), SHARED, again),
        "relations": Variant((*pruned, *term, "train.relations.weight=1"), SHARED, again),
        "logit_kd-features": Variant((*soft, *pruned, "train.features.weight=1"), SHARED, again),
        "further": Variant(further, SHARED, again),
        "on_policy": Variant((*on_policy, *further), SHARED, again),
        "redi": Variant(("train.objective=redi", *pairs), graded, anew),
        "dpo": Variant(("train.objective=dpo", "train.packing=false", *pairs), graded, anew),
    }


def name_of(objective: str, seed: int) -> str:
    return f"demo-{seed}" + ("" if objective == "sft" else f"-{objective}")


def commands(recipe: Path, runs: Path, name: str, seed: int, variant: Variant) -> list[list[str]]:
    settings = [f"run={name}", f"seed={seed}", *variant.settings]
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


def over_seeds(runs: Sequence[Path], role: str) -> dict[str, float]:
    """The mean over the seeds of each problem."""
    shares = defaultdict(list)
    for run in runs:
        for problem, share in pass_at_1(run, role).items():
            shares[problem].append(share)
    return {problem: statistics.mean(each) for problem, each in shares.items()}


def minus(runs: Sequence[Path], against: Sequence[Path]) -> str:
    """The paired difference to the same seeds of another objective; "" unless they are complete."""
    if not against or not all(map(is_complete, against)):
        return ""
    ours, theirs = (over_seeds(each, "student") for each in (runs, against))
    middle, low, high = (100 * x for x in mean([ours[p] - theirs[p] for p in ours], least=-1))
    return f"{middle:.1f} points [{low:.1f}, {high:.1f}]"


def line_of(objective: str, by_seed: Mapping[int, Path]) -> str:
    """One line of the table. Its intervals are over problems, each a mean over the seeds."""
    runs, other = list(by_seed.values()), AGAINST.get(objective, "pruned")
    against = [run.with_name(name_of(other, seed)) for seed, run in by_seed.items()] if other else []
    middle, low, high = mean(list(over_seeds(runs, "student").values()))
    difference = minus(runs, against)
    teacher, base = (
        f"{statistics.mean(over_seeds(runs, role).values()):.1%}" for role in ("teacher", "base")
    )
    each = ", ".join(f"{statistics.mean(pass_at_1(run, 'student').values()):.1%}" for run in runs)
    seconds = statistics.mean(map(training_seconds, runs))
    memory = max((int(peak_file(run).read_text()) for run in runs if peak_file(run).exists()), default=0)
    cells = (
        objective,
        f"{middle:.1%} [{low:.1%}, {high:.1%}]",
        each,
        difference and f"{difference} to {other}",
        teacher,
        base,
        f"{seconds:.0f} s",
        f"{memory / 1e9:.1f} GB" if memory else "unknown",
    )
    return f"| {' | '.join(cells)} |"


def table(runs: Mapping[str, Mapping[int, Path]]) -> str:
    head = (
        "objective",
        "student, pass@1 [95 %]",
        "each seed",
        "difference",
        "teacher",
        "base",
        "training, mean",
        "memory",
    )
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join(lines + [line_of(name, done) for name, done in runs.items() if done])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", default=",".join(variants(0, 0, 0, Path())))
    parser.add_argument("--layers", type=int, default=24, help="of a pruned student")
    parser.add_argument("--epochs", type=int, default=4, help="of its training")
    parser.add_argument("--rate", type=float, default=2e-5, help="learning rate of what trains on")
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--runs", type=Path, default=Path("data/objectives"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    done: dict[str, dict[int, Path]] = {name: {} for name in options.objectives.split(",")}
    for seed in range(1, options.seeds + 1):
        known = variants(options.layers, options.epochs, options.rate, options.runs / name_of("sft", seed))
        for name in done:
            run = options.runs / name_of(name, seed)
            complete_run(run, options, seed, known[name])
            if is_complete(run):
                done[name][seed] = run
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
    for stage, line in zip(variant.stages, lines, strict=True):
        _, status, used = os.wait4(subprocess.Popen(line).pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            sys.exit(code)
        if stage == "train":  # the largest of its processes; Linux counts in KiB
            peak_file(run).write_text(str(used.ru_maxrss * 1024))


def peak_file(run: Path) -> Path:
    return run.with_name(run.name + ".peak")


if __name__ == "__main__":
    main()
