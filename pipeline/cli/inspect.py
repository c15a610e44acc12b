"""The shell commands that look at runs, and change nothing in them; and completion.

Most print for people or, with --json, one JSON document on stdout and nothing else; its keys are the fields
of the type that the command's help names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import shell_completion

if TYPE_CHECKING:
    from pipeline.inspect.run import Run

JUDGED = "filter; of a model scored alone, its answers"

_run = click.argument("run", type=click.Path(path_type=Path), shell_complete=shell_completion.runs)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path), shell_complete=shell_completion.runs)
@_json
@click.pass_obj
def status(runs: Path, run: Path | None, as_json: bool) -> None:
    """What each stage of RUN holds, read from its folder; without RUN, a line for each run.

    RUN is a run's folder, or its name. JSON: Status of pipeline/inspect/status.py; without RUN, Runs.
    """
    from pipeline.inspect import show, status

    document = status.runs_of(runs) if run is None else status.status_of(open_named(runs, run))
    if as_json:
        show.print_json(document)
    else:
        status.print_document(document)


@click.command()
@_run
@click.option("--stage", help=f"Whose traces.  [default: {JUDGED}]", shell_complete=shell_completion.stages)
@click.option(
    "-n",
    "examples",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Examples of each reason.",
)
@_json
@click.pass_obj
def why(runs: Path, run: Path, stage: str | None, examples: int, as_json: bool) -> None:
    """Where RUN's traces went: kept, rejected by reason with examples, and what each rule rejects alone.

    JSON: Why of pipeline/inspect/why.py.
    """
    from pipeline.inspect import show, why

    opened = open_named(runs, run)
    document = why.why_of(opened, stage or opened.judged(), examples)
    if as_json:
        show.print_json(document)
    else:
        why.print_why(document)


@click.command(name="show")
@_run
@click.option(
    "--stage",
    help=f'Whose rows: a stage, or e.g. "evaluate/held_out/student/filter".  [default: {JUDGED}]',
    shell_complete=shell_completion.stages,
)
@click.option("--id", "wanted", help="Only this trace or other row; of a problem's id, all its traces.")
@click.option("--kept", "outcome", flag_value="kept", help="Only traces that were kept.")
@click.option("--rejected", "outcome", flag_value="rejected", help="Only traces that were rejected.")
@click.option(
    "--reason",
    help='Only traces decided by this rule, or "rule: code" as why prints it.',
    shell_complete=shell_completion.reasons,
)
@click.option("--source", help="Only rows of this source.", shell_complete=shell_completion.sources)
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="How many rows.")
@_json
@click.pass_obj
def show_rows(
    runs: Path,
    run: Path,
    stage: str | None,
    wanted: str | None,
    outcome: str | None,
    reason: str | None,
    source: str | None,
    count: int,
    as_json: bool,
) -> None:
    """Print rows of RUN as text, each whole.

    JSON: Shown of pipeline/inspect/show.py.
    """
    from pipeline.inspect import show

    opened = open_named(runs, run)
    if wanted is None:
        found = show.first(opened, stage or opened.judged(), outcome, reason, source, count)
    elif outcome or reason or source:
        raise click.UsageError(
            "--id names the row; --kept, --rejected, --reason and --source cannot narrow it"
        )
    else:
        found = show.by_id(opened, stage, wanted)
    if as_json:
        show.print_json(found)
    else:
        show.print_rows(found)


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path), shell_complete=shell_completion.runs)
@click.argument("run_b", type=click.Path(path_type=Path), shell_complete=shell_completion.runs)
@_json
@click.pass_obj
def diff(runs: Path, run_a: Path, run_b: Path, as_json: bool) -> None:
    """Which settings of RUN_A and RUN_B differ, and what that did to yield, cost and scores.

    Scores are compared problem by problem, over the problems of both. JSON: Diff of pipeline/inspect/diff.py.
    """
    from pipeline.inspect import diff, show

    document = diff.diff_of(open_named(runs, run_a), open_named(runs, run_b))
    if as_json:
        show.print_json(document)
    else:
        diff.print_diff(document)


@click.command()
@_run
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; default: RUN/report.html.")
@click.pass_obj
def report(runs: Path, run: Path, out: Path | None) -> None:
    """Write one HTML file that shows RUN: yield, cost, training, evaluation, and traces to read.

    It needs no network to be looked at. A run that is still at work is shown as far as it is.
    """
    from pipeline.report.build import write_report

    opened = open_named(runs, run)
    print(write_report(opened, out or opened.path / "report.html"))


@click.command(name="completion")
@click.argument("shell", type=click.Choice(shell_completion.SHELLS))
@click.pass_context
def print_completion(context: click.Context, shell: str) -> None:
    """Print the script that completes retort's words in bash or zsh: eval "$(retort completion bash)"."""
    click.echo(shell_completion.script(context.find_root().command, shell))


ALL = (status, why, show_rows, diff, report, print_completion)


def open_named(runs: Path, run: Path) -> Run:
    """A run by its folder, or by its name in the folder of runs."""
    from pipeline.inspect.run import open_run

    return open_run(run if (run / "recipe.json").exists() else runs / run)
