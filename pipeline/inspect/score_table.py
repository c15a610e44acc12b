"""The evaluation as text: a block for each set, a line for each model, and the student beside the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.table import Table

from pipeline.config.evaluation import HELD_OUT
from pipeline.engine.progress import plain
from pipeline.evaluate.bootstrap import percent
from pipeline.evaluate.metrics import Comparison, Summary, comparisons, summarise, trained_on
from pipeline.inspect.run import Run
from pipeline.inspect.show import console

COLUMNS = (
    "pass@1 [95 %]",
    "cut off",
    "malformed",
    "cannot tell",
    "failed",
    "tokens/answer",
    "problems x samples",
)


def print_table(run: Run) -> None:
    """The scores of every set, then the student's difference to the others, paired by problem."""
    scores = list(run.scores)
    print_scores(run, summarise(scores), comparisons(scores))


def print_scores(run: Run, summaries: Sequence[Summary], beside: Sequence[Comparison]) -> None:
    """The same, of scores that were summed up already: each interval is thousands of resamples."""
    screen = console()
    learned = run.report("evaluate").get("trained_on", {})
    alone = {s.set for s in summaries} == {HELD_OUT}
    for name, group in groupby(summaries, key=lambda s: s.set):
        lines = list(group)
        if not alone:
            screen.print(f"{name}:", markup=False, highlight=False)
        screen.print(_table(lines))
        if max(s.samples / s.problems for s in lines) > 1:
            screen.print(_several(lines))
        if name in learned:
            screen.print(trained_on(name, learned[name]), markup=False, highlight=False)
        for c in (c for c in beside if c.set == name):
            for sentence in _sentences(c):
                screen.print(sentence, markup=False, highlight=False)
    screen.print(_sampled(run), markup=False, highlight=False)


def _table(summaries: Sequence[Summary]) -> Table:
    table = Table("", "prompt", *COLUMNS, box=None)
    for s in summaries:
        shares = [f"{100 * x:.1f} %" for x in (s.truncated, s.malformed, s.unknown, s.failed)]
        tokens = "-" if s.tokens is None else f"{s.tokens:.0f}"
        of = f"{s.problems} x {s.samples / s.problems:g}"
        table.add_row(s.model_role, s.prompt, percent(s.pass_at[1]), *shares, tokens, of)
    return table


def _several(summaries: Sequence[Summary]) -> Table:
    """What several samples a problem are worth: one of k right, and the answer that most of them give."""
    ks = sorted({k for s in summaries for k in s.pass_at} - {1})
    table = Table("", *(f"pass@{k}" for k in ks), "majority", box=None)
    for s in summaries:
        cells = [percent(s.pass_at[k]) if k in s.pass_at else "-" for k in ks]
        table.add_row(s.model_role, *cells, percent(s.majority))
    return table


def _sentences(c: Comparison) -> Iterator[str]:
    d = c.difference
    judged = {"better": "better than", "worse": "worse than"}.get(c.verdict, "not told apart from")
    mean, low, high = (100 * x for x in d)
    yield f"student is {judged} {c.other}: {mean:+.1f} points, 95 % from {low:+.1f} to {high:+.1f}"
    if c.retention:
        mean, low, high = (100 * x for x in c.retention)
        end = f"to {high:.1f}" if math.isfinite(high) else "on"
        yield f"student has {mean:.1f} % of the pass@1 of {c.other}, 95 % from {low:.1f} {end}"


def _sampled(run: Run) -> str:
    """Which models, and how they were asked, as the folder's manifest has it with all other settings."""
    manifest = run.output("evaluate").manifest()
    settings = manifest.settings if manifest else {}
    names = {key.partition("/")[2]: s["name"] for key, s in settings.get("subjects", {}).items()}
    named = ", ".join(f"{subject} is {plain(name)}" for subject, name in names.items())
    said = [f"{key} {settings.get(key)}" for key in ("temperature", "top_p", "max_tokens", "seed")]
    return f"{named}; {', '.join(said)}"
