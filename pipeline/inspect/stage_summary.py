"""Lines printed when a stage is done: its most important numbers and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline import generations
from pipeline.engine.progress import plain
from pipeline.inspect import diversity
from pipeline.inspect.costs import costs, total_spend
from pipeline.inspect.failures import accepted
from pipeline.inspect.format import at_least, money, percent
from pipeline.inspect.run import Run
from pipeline.select.stage import LEFT_OUT


def lines(run: Run, stage: str) -> Iterator[str]:
    """The numbers of a complete stage; evaluate has a table instead."""
    for line in _LINES[stage](run) if stage in _LINES else ():
        yield plain(f"{stage}: {line}")


def next_command(runs: Path, words: Sequence[str]) -> str:
    """A line with a command to paste: `words` of retort, for the runs in this folder."""
    folder = [] if runs == Path("data/runs") else ["--runs", str(runs)]
    return f"next: {shlex.join(['retort', *folder, *words])}"


def _ingest(run: Run) -> Iterator[str]:
    report = run.report("ingest")
    yield f"{report['problems']:,} problems: {report['train']:,} to train on, {report['held_out']:,} held out"


def _generate(run: Run) -> Iterator[str]:
    spent = costs(run)
    uncounted = sum(c.uncounted for c in spent)
    counts = [c.completion_tokens for c in spent if c.completion_tokens is not None]
    line = f"{sum(c.traces for c in spent):,} traces, "
    line += f"{sum(counts):,} tokens" if counts or not uncounted else "tokens not counted"
    if uncounted and counts:
        line += f" and those of {uncounted:,} traces whose server counted none"
    total = total_spend(spent)
    if total is not None:
        where = " where a price is given" if any(c.spend is None for c in spent) and not uncounted else ""
        line += f", {at_least(money(total), uncounted)} spent{where}"
    yield line
    if failed := accepted(run, "generate"):
        yield f"{failed:,} of the traces failed, which generate.max_failed_fraction accepts"


def _filter(run: Run) -> Iterator[str]:
    """A line on each rule on its own, and lines on the kept traces and how different they are."""
    funnel = run.report("filter")
    rules = []
    for name, rule in funnel["rules"].items():
        undecided = f" and leaves {rule['undecided']:,} undecided" if rule["undecided"] else ""
        rules.append(f"{name} {rule['failed']:,}{undecided}")
    yield f"rejected by each rule: {', '.join(rules)}"
    share = f" ({percent(funnel['kept'] / funnel['traces'])})" if funnel["traces"] else ""
    yield f"kept {funnel['kept']:,} of {funnel['traces']:,} traces{share}"
    if found := diversity.diversity_of(run):
        yield from diversity.lines(found)
    if suspects := funnel.get("suspects"):
        yield f"{suspects:,} problems whose reference may be wrong: `retort why {run.name} --suspects`"


def _score(run: Run) -> Iterator[str]:
    report = run.report("score")
    names = {"scored": "scored", "too_long": "over score.max_length", **LEFT_OUT}
    parts = " + ".join(f"{report[name]:,} {what}" for name, what in names.items() if report.get(name))
    yield f"{report['kept']:,} kept traces = {parts}" if report["kept"] else "no trace was kept"
    if student := report.get("student"):
        rate = "-" if student["pass_rate"] is None else percent(student["pass_rate"])
        yield f"the untrained student solves {rate} of {student['problems']:,} problems"
    yield f"`retort teachers {run.path.name}` ranks the teachers by these scores"


def _select(run: Run) -> Iterator[str]:
    report = run.report("select")
    chats = report.get("chat", 0)
    parts = {"to train on": report["train"], "to validate": report["validation"]}
    if chats or report.get("plain"):
        parts = {"taught with reasoning": report["reasoning"], "taught without": report["plain"]}
    parts |= {what: report.get(name, 0) for name, what in LEFT_OUT.items()}
    used = " + ".join(f"{n:,} {what}" for what, n in parts.items() if n)
    yield f"{report['kept']:,} kept traces = {used}"
    if chats or report.get("plain"):
        total = report["train"] + report["validation"]
        shares = (f"{report[kind]:,} {kind}" for kind in ("reasoning", "plain", "chat"))
        yield f"{total:,} examples = {' + '.join(shares)}; {report['validation']:,} of them to validate"
    for name, tally in report.get("chat_sets", {}).items():
        yield _chat_set(name, tally)
    if chats:
        yield f"chat data was compared with {report['chat_checked_against']}"
    if "pairs" in report:
        yield f"{report['pairs']:,} examples with an incorrect trace, of {report['incorrect']:,} usable ones"
    untaught = report.get("reasoning_not_taught", 0) - report.get("plain", 0)
    if untaught > 0:
        yield f"the reasoning of {untaught:,} examples is not taught, as select.reasoning says"


def _chat_set(name: str, tally: dict[str, int]) -> str:
    """What became of the rows of a set: rows = usable + those left out."""
    left_out = {k: n for k, n in tally.items() if k not in ("rows", "usable", "wanted", "taken")}
    reasons = "".join(f", {n:,} left out ({reason})" for reason, n in left_out.items())
    lacking = "" if tally["taken"] == tally["wanted"] else f" of {tally['wanted']:,} wanted"
    usable = f"{tally.get('usable', 0):,} of {tally.get('rows', 0):,} rows usable"
    return f"{name}: {usable}{reasons}; {tally['taken']:,} taken{lacking}"


def _train(run: Run) -> Iterator[str]:
    report = run.report("train")
    losses = {"last loss": "last_loss", "first": "first_loss", "validation": "validation_loss"}
    parts = [f"{what} {report[name]:.3f}" for what, name in losses.items() if report.get(name) is not None]
    if parts:
        generation = generations.words(report.get("generation"))
        yield f"{', '.join(parts)}, after {report['steps']:,} steps; the student's generation: {generation}"


def _compress(run: Run) -> Iterator[str]:
    """A line on each compressed student; it has no scores yet."""
    for row in run.rows("compress"):
        share = percent(row.bytes / row.whole_bytes)
        yield f"{row.id}: {row.bytes / 1e6:,.0f} MB, {share} of the student's; answers in {row.checked_by}"


_LINES: dict[str, Callable[[Run], Iterator[str]]] = {
    "ingest": _ingest,
    "generate": _generate,
    "filter": _filter,
    "score": _score,
    "select": _select,
    "train": _train,
    "compress": _compress,
}
