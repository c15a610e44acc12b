"""The evaluation as text: a table for each set, a line for each model, and the student against the others.

Where the student is compressed, a second table has the size, speed and quality of each model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from pipeline.config.evaluate import HELD_OUT
from pipeline.evaluate.acceptance import DraftQuality
from pipeline.evaluate.metrics import Comparison, Summary, comparisons, lost_sentence, summarise, trained_on
from pipeline.inference import engines
from pipeline.inspect.compression import Compression, ModelCost, compression_of
from pipeline.inspect.format import estimate, interval, megabytes, percent, share, speed
from pipeline.inspect.run import Run
from pipeline.inspect.show import print_grid, print_lines

COLUMNS = (
    "pass@1 [95 %]",
    "truncated",
    "malformed",
    "undecided",
    "failed",
    "tokens/answer",
    "problems x samples",
)

COST_COLUMNS = ("size", "pass@1", "points from the student", "same greedy answers", "tokens/s", "peak memory")


def print_table(run: Run) -> None:
    """Prints the scores of every set, then the student's difference to the others, paired by problem."""
    scores = list(run.scores)
    summaries = summarise(scores)
    print_scores(run, summaries, comparisons(scores), compression_of(run, summaries))


def print_scores(
    run: Run,
    summaries: Sequence[Summary],
    differences: Sequence[Comparison],
    compression: Compression | None = None,
) -> None:
    """As print_table, without computing the intervals again: each takes thousands of resamples."""
    learned = run.report("evaluate").get("trained_on", {})
    only_held_out = {s.set for s in summaries} == {HELD_OUT}
    for name, group in groupby(summaries, key=lambda s: s.set):
        lines = list(group)
        if not only_held_out:
            print_lines(f"{name}:")
        print_grid(_table(lines))
        if max(s.samples / s.problems for s in lines) > 1:
            print_grid(_several_samples(lines))
        if name in learned:
            print_lines(trained_on(name, learned[name]))
        print_lines(*(text for c in differences if c.set == name for text in _sentences(c)))
        if compression:
            print_grid(_costs([cost for cost in compression.models if cost.set == name]))
        if drafts := [draft for draft in drafts_of(run) if draft.set == name]:
            print_grid(_drafts(drafts))
    if sentence := lost_sentence(differences):
        print_lines(sentence)
    for each in compression.not_evaluated if compression else ():
        print_lines(f"student-{each.scheme} ({megabytes(each.bytes)}) is not evaluated here: {each.why}")
    names = ", ".join(f"{role} is {name}" for role, name in _models(run).items())
    print_lines(f"{names}; {', '.join(f'{key} {value}' for key, value in sampling_of(run).items())}")
    print_lines(*engines.lines(engines_of(run)))


def engines_of(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Set and role -> the engines that made the responses; without the set if there is one."""
    found: dict[str, list[dict[str, Any]]] = run.report("evaluate").get("engines", {})
    one_set = len({name.partition("/")[0] for name in found}) == 1
    return {name.partition("/")[2] if one_set else name: made_by for name, made_by in found.items()}


def drafts_of(run: Run) -> list[DraftQuality]:
    """What models are worth as drafts of a teacher; [] where it was not measured."""
    return [DraftQuality.model_validate(each) for each in run.report("evaluate").get("drafts", ())]


def sampling_of(run: Run) -> dict[str, str]:
    """Setting -> value with which evaluate samples; "server's own" for models that are not sent the setting.

    From the manifest of evaluate; before evaluate has begun, from the recipe.
    """
    manifest, recipe = run.output("evaluate").manifest(), run.recipe
    if manifest:
        settings = manifest.settings
        models = settings.get("models", {})
        omitted = {key.partition("/")[2]: model.get("omit", ()) for key, model in models.items()}
    else:
        settings = recipe.evaluate.model_dump()
        omitted = {teacher.display_name: teacher.omit for teacher in recipe.teacher}
        omitted |= {"student": recipe.student.omit} if recipe.student else {}
    found = {}
    for name in ("samples", "temperature", "top_p", "max_tokens", "seed"):
        without = [model for model, names in omitted.items() if name in names]
        if without and len(without) == len(omitted):
            found[name] = "server's own"
        elif name in settings:
            found[name] = str(settings[name]) + "".join(f" ({model}: server's own)" for model in without)
    return found


def _models(run: Run) -> dict[str, str]:
    """Role -> name of each model."""
    manifest = run.output("evaluate").manifest()
    models = manifest.settings.get("models", {}) if manifest else {}
    return {key.partition("/")[2]: model["name"] for key, model in models.items()}


def _table(summaries: Sequence[Summary]) -> Table:
    modes = any(s.mode == "plain" for s in summaries)  # only then it matters how a model answers
    table = Table("", "prompt", *COLUMNS, *(("as asked",) if modes else ()), box=None)
    for s in summaries:
        shares = [percent(share) for share in (s.truncated, s.malformed, s.undecided, s.failed)]
        tokens = "-" if s.tokens is None else f"{s.tokens:.0f}"
        size = f"{s.problems} x {s.samples / s.problems:g}"
        obedient = "-" if s.obedient is None else percent(s.obedient)
        asked = (obedient,) if modes else ()
        table.add_row(s.model_role, s.prompt, interval(s.pass_at[1]), *shares, tokens, size, *asked)
    return table


def _costs(models: Sequence[ModelCost]) -> Table:
    """Size, quality and speed; the last two columns as measured on the machine that evaluated."""
    table = Table("", *COST_COLUMNS, box=None)
    for m in models:
        points = interval(m.difference, "") if m.difference else "-"
        cells = (megabytes(m.bytes), interval(m.pass_at_1), points, share(m.greedy_agreement))
        table.add_row(m.model_role, *cells, speed(m.tokens_per_second), megabytes(m.memory))
    return table


def _drafts(drafts: Sequence[DraftQuality]) -> Table:
    """What each model is worth as a draft of the teacher in speculative decoding."""
    per_pass = f"tokens/pass, {drafts[0].draft_tokens} proposed"
    table = Table("as draft", "of", "accepted [95 %]", per_pass, "same likeliest token", box=None)
    for d in drafts:
        table.add_row(d.model_role, d.teacher, interval(d.acceptance), estimate(d.accepted), percent(d.same))
    return table


def _several_samples(summaries: Sequence[Summary]) -> Table:
    """pass@k for k > 1, and whether the answer of most samples is correct."""
    ks = sorted({k for s in summaries for k in s.pass_at} - {1})
    table = Table("", *(f"pass@{k}" for k in ks), "majority", box=None)
    for s in summaries:
        cells = [interval(s.pass_at[k]) if k in s.pass_at else "-" for k in ks]
        table.add_row(s.model_role, *cells, interval(s.majority))
    return table


def _sentences(c: Comparison) -> Iterator[str]:
    relation = {"better": "better than", "worse": "worse than"}.get(c.verdict, "not told apart from")
    mean, low, high = (100 * x for x in c.difference)
    yield f"student is {relation} {c.other}: {mean:+.1f} points, 95 % from {low:+.1f} to {high:+.1f}"
    if c.retention:
        mean, low, high = (100 * x for x in c.retention)
        end = f"to {high:.1f}" if math.isfinite(high) else "on"
        yield f"student has {mean:.1f} % of the pass@1 of {c.other}, 95 % from {low:.1f} {end}"
