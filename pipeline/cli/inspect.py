"""The commands that read runs and change nothing in them, and shell completion.

Most print for people, or with --json one JSON document on stdout and nothing else. Its keys are the fields of
the type that the command's help names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import shell_completion
from pipeline.engine.progress import say
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.inspect.run import Run

FILTERED = "filter; for a model scored alone, its responses"

_RUN: dict[str, Any] = {"type": click.Path(path_type=Path), "shell_complete": shell_completion.runs}
run_argument = click.argument("run", **_RUN)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")


@click.command()
@click.argument("run", required=False, **_RUN)
@_json
@click.pass_obj
def status(runs: Path, run: Path | None, as_json: bool) -> None:
    """Show what each stage of RUN holds, from its folder; without RUN, one line for each run.

    RUN is a run's folder or its name. JSON: Status of pipeline/inspect/status.py; without RUN, Runs.
    """
    from pipeline.inspect import show, status

    document = status.runs_of(runs) if run is None else status.status_of(open_named(runs, run))
    (show.print_json if as_json else status.print_document)(document)


@click.command()
@run_argument
@click.option("--stage", help=f"Whose traces.  [default: {FILTERED}]", shell_complete=shell_completion.stages)
@click.option(
    "-n",
    "examples",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Examples for each reason.",
)
@click.option(
    "--suspects", is_flag=True, help="List problems whose reference most samples contradict with one answer."
)
@_json
@click.pass_obj
def why(runs: Path, run: Path, stage: str | None, examples: int, suspects: bool, as_json: bool) -> None:
    """Show how many traces of RUN were kept and rejected, for which reasons, with examples.

    The table also says how many traces each rule alone rejects. Before RUN is filtered, the rules of its
    recipe are applied to some of the traces so far, and nothing is stored. JSON: Why of
    pipeline/inspect/why.py; with --suspects, Suspects of pipeline/inspect/suspects.py.
    """
    from pipeline.inspect import show, why

    opened = open_named(runs, run)
    if suspects:
        from pipeline.inspect.suspects import print_suspects, suspects_of

        if stage is not None:
            raise click.UsageError("--suspects looks at the stage filter; leave out --stage")
        listed = suspects_of(opened)
        (show.print_json if as_json else print_suspects)(listed)
        return
    document = why.why_of(opened, stage or opened.filtered_stage(), examples)
    (show.print_json if as_json else why.print_why)(document)


@click.command(name="show")
@run_argument
@click.option(
    "--stage",
    help=f'Whose rows: a stage, or e.g. "evaluate/held_out/student/filter".  [default: {FILTERED}]',
    shell_complete=shell_completion.stages,
)
@click.option("--id", "wanted", help="Only the row with this id; for a problem's id, all of its traces.")
@click.option("--kept", is_flag=True, help="Only kept traces.")
@click.option("--rejected", is_flag=True, help="Only rejected traces.")
@click.option(
    "--reason",
    help='Only traces decided by this rule, or by "rule: code" as `retort why` prints it.',
    shell_complete=shell_completion.reasons,
)
@click.option("--source", help="Only rows of this source.", shell_complete=shell_completion.sources)
@click.option(
    "--where",
    "conditions",
    metavar="SQL",
    multiple=True,
    help="Only rows for which this holds, such as \"columns->>'level' = '5'\"; may be repeated.",
)
@click.option(
    "--sort",
    metavar="FIELD",
    help='Largest first: a field, or "length" of the text. "-length": shortest first.',
)
@click.option("--fields", metavar="NAMES", help="Only these fields, e.g. id,response.")
@click.option("--long", "whole", is_flag=True, help="All fields, also empty ones.")
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Number of rows.")
@_json
@click.pass_obj
def show_rows(
    runs: Path,
    run: Path,
    stage: str | None,
    wanted: str | None,
    kept: bool,
    rejected: bool,
    reason: str | None,
    source: str | None,
    conditions: tuple[str, ...],
    sort: str | None,
    fields: str | None,
    whole: bool,
    count: int,
    as_json: bool,
) -> None:
    """Print rows of RUN as text, from the first trace on, while a stage still runs.

    JSON: Shown of pipeline/inspect/show.py.
    """
    from pipeline.inspect import show

    opened, outcome = open_named(runs, run), _outcome(kept, rejected)
    if wanted is None:
        found = show.first(opened, stage, outcome, reason, source, count, conditions, sort)
    elif outcome or reason or source or conditions or sort:
        raise click.UsageError(
            "--id cannot be combined with --kept, --rejected, --reason, --source, --where or --sort"
        )
    else:
        found = show.by_id(opened, stage, wanted)
    if fields is not None:
        found = show.only(found, [name.strip() for name in fields.split(",")])
    elif not whole and not as_json:
        found = show.short(found)
    (show.print_json if as_json else show.print_rows)(found)
    if not found.rows:
        say("no row matches")


def _outcome(kept: bool, rejected: bool) -> str | None:
    if kept and rejected:
        raise click.UsageError("--kept and --rejected: give one of them, or neither for all traces")
    return "kept" if kept else "rejected" if rejected else None


@click.command()
@run_argument
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The file to write: .jsonl.")
@click.option("--traces", is_flag=True, help="All traces with their verdicts, in place of the examples.")
@click.option("--kept", is_flag=True, help="With --traces: only kept ones.")
@click.option("--rejected", is_flag=True, help="With --traces: only rejected ones.")
@click.pass_obj
def export(runs: Path, run: Path, to: Path, traces: bool, kept: bool, rejected: bool) -> None:
    """Write RUN's training examples, or its traces, as JSON lines.

    The file is complete, or not there. `retort publish` writes Parquet with a card instead.
    """
    from pipeline.inspect.export import write

    outcome = _outcome(kept, rejected)
    if outcome and not traces:
        raise click.UsageError(f"--{outcome} is for --traces: examples are made of kept traces")
    opened = open_named(runs, run)
    print(write(opened, to, traces, outcome))


@click.command()
@run_argument
@_json
@click.pass_obj
def teachers(runs: Path, run: Path, as_json: bool) -> None:
    """Rank the teachers of RUN, and its sources, by yield, cost and how the student reads their traces.

    The last needs the stage score. JSON: Teachers of pipeline/inspect/teachers.py.
    """
    from pipeline.inspect import show, teachers

    document = teachers.teachers_of(open_named(runs, run))
    (show.print_json if as_json else teachers.print_teachers)(document)


@click.command()
@click.argument("run_a", **_RUN)
@click.argument("run_b", required=False, **_RUN)
@_json
@click.pass_obj
def diff(runs: Path, run_a: Path, run_b: Path | None, as_json: bool) -> None:
    """Compare the settings, yield, cost and scores of RUN_A and RUN_B.

    Without RUN_B, compare RUN_A before and after the last change that made stages run again.
    Scores are paired by problem, over those that both runs have. JSON: Diff of pipeline/inspect/diff.py.
    """
    from pipeline.inspect import diff, show

    first = open_named(runs, run_a)
    a, b = (first.before(), first) if run_b is None else (first, open_named(runs, run_b))
    document = diff.diff_of(a, b)
    (show.print_json if as_json else diff.print_diff)(document)


@click.command()
@run_argument
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; default: RUN/report.html.")
@click.pass_obj
def report(runs: Path, run: Path, out: Path | None) -> None:
    """Write RUN as one HTML file: yield, cost, training, evaluation and a sample of traces.

    The file needs no network. A run in progress is reported as far as it is.
    """
    from pipeline.report.build import write_report

    opened = open_named(runs, run)
    print(write_report(opened, out or opened.path / "report.html"))


@click.command()
@click.argument("run", required=False, **_RUN)
@click.argument("other", required=False, **_RUN)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--open", "browser", is_flag=True, help="Open the page in this machine's browser.")
@click.pass_obj
def view(runs: Path, run: Path | None, other: Path | None, port: int, browser: bool) -> None:
    """Show every trace of RUN in a local web page, also while the run works; with OTHER, next to that run.

    Without RUN, the run in which a stage began last. The page sorts, filters and searches, shows the samples
    of a problem side by side, and saves marks and notes in RUN/keep.jsonl and RUN/notes.jsonl. Only this
    machine can reach it. Ctrl-C ends it.
    """
    from pipeline.view.server import serve

    named = [run or _latest(runs), *([other] if other else [])]
    serve([open_named(runs, each) for each in named], port, browser)


@click.command(name="completion")
@click.argument("shell", type=click.Choice(shell_completion.SHELLS))
@click.pass_context
def print_completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell: eval "$(retort completion bash)", or the same with zsh.

    For fish: retort completion fish > ~/.config/fish/completions/retort.fish"""
    click.echo(shell_completion.script(context.find_root().command, shell))


COMMANDS = (status, why, show_rows, export, teachers, diff, view, report, print_completion)


def open_named(runs: Path, run: Path) -> Run:
    """Opens a run by its folder, or by its name in the folder of runs."""
    from pipeline.inspect.run import open_run

    if (run / "recipe.json").exists():
        return open_run(run)
    return open_run(runs / run if runs.name else runs.absolute() / run)  # a bare name is one in data/runs


def _latest(runs: Path) -> Path:
    """The run in which a stage began last: it then wrote its lock."""
    found = [path.parent for path in runs.glob("*/recipe.json")]
    if not found:
        raise UserError(f"{runs}: no run there")
    began = {run: [lock.stat().st_mtime for lock in run.glob("*/.lock")] for run in found}
    return max(found, key=lambda run: max(began[run], default=0))
