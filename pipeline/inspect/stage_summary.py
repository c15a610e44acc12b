"""What is said when a stage is done: the numbers that matter, from its folder, and the next command.

Leaves out what `retort status` and `retort why` say at any time.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.engine.progress import plain
from pipeline.inspect.costs import costs
from pipeline.inspect.run import Run
from pipeline.inspect.show import at_least, money
from pipeline.select.stage import LEFT_OUT


def lines(run: Run, stage: str) -> Iterator[str]:
    """The numbers of a complete stage; evaluate's are its table."""
    for line in _LINES[stage](run) if stage in _LINES else ():
        yield plain(f"{stage}: {line}")


def next_command(runs: Path, words: Sequence[str]) -> str:
    """A line with a command that can be pasted: `words` of retort, for the runs in this folder."""
    folder = [] if runs == Path("data/runs") else ["--runs", str(runs)]
    return f"next: {shlex.join(['retort', *folder, *words])}"


def _ingest(run: Run) -> Iterator[str]:
    report = run.report("ingest")
    yield f"{report['problems']:,} problems: {report['train']:,} to train on, {report['held_out']:,} held out"


def _generate(run: Run) -> Iterator[str]:
    spent = costs(run)
    uncounted = sum(c.uncounted for c in spent)
    counts = [c.completion_tokens for c in spent if c.completion_tokens is not None]
    said = f"{sum(c.traces for c in spent):,} traces, "
    said += f"{sum(counts):,} tokens" if counts or not uncounted else "tokens not counted"
    if uncounted and counts:
        said += f" and those of {uncounted:,} traces whose server counted none"
    known = [c.spend for c in spent if c.spend is not None]
    if known:
        where = " where a price is given" if len(known) < len(spent) and not uncounted else ""
        said += f", {at_least(money(sum(known)), uncounted)} spent{where}"
    yield said


def _filter(run: Run) -> Iterator[str]:
    """A line for all rules together, whatever the others say of a trace, and what is left."""
    funnel = run.report("filter")
    rules = []
    for name, rule in funnel["rules"].items():
        unknown = f" and cannot tell of {rule['unknown']:,}" if rule["undecided"] else ""
        rules.append(f"{name} {rule['fails']:,}{unknown}")
    yield f"rejected by each rule: {', '.join(rules)}"
    share = f" ({100 * funnel['kept'] / funnel['traces']:.1f} %)" if funnel["traces"] else ""
    yield f"kept {funnel['kept']:,} of {funnel['traces']:,} traces{share}"


def _select(run: Run) -> Iterator[str]:
    report = run.report("select")
    parts = {"to train on": report["train"], "to validate": report["validation"]}
    parts |= {what: report.get(name, 0) for name, what in LEFT_OUT.items()}
    used = " + ".join(f"{n:,} {what}" for what, n in parts.items() if n)
    yield f"{report['kept']:,} kept traces = {used}"
    if untaught := report.get("thought_not_taught"):
        yield f"of {untaught:,} examples the thought is not taught, as select.reasoning says"


def _train(run: Run) -> Iterator[str]:
    report = run.report("train")
    losses = {"last loss": "last_loss", "first": "first_loss", "validation": "validation_loss"}
    said = [f"{what} {report[name]:.3f}" for what, name in losses.items() if report.get(name) is not None]
    if said:
        yield f"{', '.join(said)}, after {report['steps']:,} steps"


_LINES: dict[str, Callable[[Run], Iterator[str]]] = {
    "ingest": _ingest,
    "generate": _generate,
    "filter": _filter,
    "select": _select,
    "train": _train,
}
