"""`retort why RUN --suspects`: problems whose reference a strong majority of the samples contradicts."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.filter.suspects import Suspect, suspects
from pipeline.inspect.format import one_line
from pipeline.inspect.run import Run
from pipeline.inspect.show import print_lines
from pipeline.rows import Row

WIDTH = 120  # characters of a question


class Suspects(Row):
    """The document that `retort why RUN --suspects --json` prints."""

    run: str
    suspects: tuple[Suspect, ...]


def suspects_of(run: Run) -> Suspects:
    """The suspects of a run. Raises UserError before its traces are filtered."""
    traces, verdicts = run.output("generate"), run.output("filter")
    if not verdicts.complete:
        raise UserError(
            f"{run.path}: the traces are not filtered yet; `retort status` shows how far the run is"
        )
    verdicts.sealed_paths()
    shards = [(traces.shard(shard.name), shard) for shard in verdicts.shards()]
    return Suspects(run=run.path.name, suspects=tuple(suspects(shards, run.recipe.filter)))


def print_suspects(found: Suspects) -> None:
    print_lines(f"{len(found.suspects):,} problems whose reference may be wrong")
    for each in found.suspects:
        print_lines(
            f"+ {each.problem_id}  {each.source}  {one_line(each.question, WIDTH)}",
            f"      reference: {one_line(each.reference, WIDTH)}",
            f"      {each.votes_for_it} of {each.votes} samples: {one_line(each.answer, WIDTH)}"
            f"  (`retort show {found.run} --id {each.traces[0]}`)",
        )
