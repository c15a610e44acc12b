"""The command line. Each command imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import click

from pipeline import __version__
from pipeline.cli import inspect, shell_completion, stages, talk
from pipeline.cli.init import ANSWER_TYPES, init
from pipeline.cli.sbatch import sbatch
from pipeline.cli.sections import Sections
from pipeline.cli.stages import load, overrides_argument, recipe_argument
from pipeline.engine.progress import plain, say
from pipeline.errors import Stopped, UserError, of_system

EXIT_CODES = (
    "Exit codes: 0 done; 2 a mistake to correct, told in one line; 3 some items failed, run the same command "
    "to retry them; 130 interrupted, run the same command to resume."
)


@click.group(
    cls=Sections,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("data/runs"),
    show_default=True,
    help="Folder that holds the runs.",
)
@click.version_option(__version__, prog_name="retort")
@click.pass_context
def cli(context: click.Context, runs: Path) -> None:
    """Distill reasoning: sample traces from a teacher, keep those that can be trusted, fine-tune a student on
    them, and measure it.

    A run is a recipe (a TOML file) and the folder that its stages write. The same command resumes a stage and
    never repeats finished work. KEY=VALUE overrides a setting, e.g. generate.samples=2.
    """
    context.obj = runs


@cli.command()
@recipe_argument
@overrides_argument
@click.option("--gpus", metavar="N x GB", help="Check for a machine with these GPUs, e.g. 8x80.")
@click.option("--to", metavar="FOLDER|hub:OWNER/NAME", help="Also check this target of `retort publish`.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=0,
    help="Ask each teacher for this many samples, which are paid for and not stored.",
)
@click.pass_obj
def check(
    runs: Path, recipe: Path, overrides: tuple[str, ...], gpus: str | None, to: str | None, samples: int
) -> int:
    """List all mistakes in RECIPE, what its unfinished stages need, what is missing, and what will be sent.

    Checks settings, sources, packages, keys, servers, models, chat template, GPU memory and disk. Prints the
    first request and the tokens and cost of generate: upper bounds or, with --samples, an estimate. Without
    --samples nothing is paid for. The exit code is 2 if something is missing.
    """
    from pipeline import chain, hardware
    from pipeline.check import preview, requirements
    from pipeline.config.load import RecipeError

    if gpus is not None:
        hardware.assume(*_gpus(gpus))
    try:
        loaded = load(recipe, overrides)
    except RecipeError as e:
        print("\n".join(map(plain, e.mistakes)))
        print(f"{len(e.mistakes)} to correct in the recipe; its needs are checked after that")
        return 2
    found = chain.requirements_of(loaded, runs, to)
    requirements.print_table(found)
    missing = {each.stage for each in found if each.state == "missing"}
    if not missing & {"ingest", "generate"}:
        preview.print_preview(loaded, runs / loaded.run, samples)
    for line in chain.gaps(loaded):
        print(line)
    return 2 if missing else 0


@cli.command()
@click.pass_obj
def doctor(runs: Path) -> None:
    """Show versions, GPUs, memory, disk, ports and the sandbox of this machine. Nothing is changed.

    For the needs of one recipe, see `retort check`.
    """
    from pipeline.check.machine import examine

    for what, found in examine(runs):
        print(plain(f"{what:9}  {found}"))


def _gpus(text: str) -> tuple[int, float]:
    count, _, gigabytes = text.partition("x")
    try:
        if int(count) > 0 and float(gigabytes) > 0:
            return int(count), float(gigabytes)
    except ValueError:
        pass
    raise UserError(f"--gpus {text}: write how many and how large, e.g. 8x80")


@cli.command()
@inspect.run_argument
@click.option("--to", required=True, metavar="FOLDER|hub:OWNER/NAME", help="Where to write or upload.")
@click.option("--with-traces", is_flag=True, help="Add every trace with its verdicts, rejected ones too.")
@click.option(
    "--format",
    "formats",
    default="whole",
    show_default=True,
    help="Forms of the student, e.g. whole,w8a8,gguf-q8_0, or all that `retort compress` made.",
)
@click.option("--no-student", is_flag=True, help="Leave out the trained student.")
@click.option("--private", is_flag=True, help="Make new repositories on the hub private.")
@click.pass_obj
def publish(
    runs: Path, run: Path, to: str, with_traces: bool, formats: str, no_student: bool, private: bool
) -> None:
    """Write RUN's data set and student, with their cards, in the layout of the Hugging Face hub.

    On the hub the student is named OWNER/NAME-student, and a compressed one OWNER/NAME-student-SCHEME. The
    token is huggingface_hub's own (HF_TOKEN).
    """
    from pipeline import publish as publishing
    from pipeline.publish.formats import read

    opened = inspect.open_named(runs, run)
    wanted = () if no_student else read(formats)
    publishing.publish(opened, to, with_traces=with_traces, student_formats=wanted, private=private)


@cli.command()
@inspect.run_argument
@click.option("--dry-run", is_flag=True, help="Delete nothing; print what would be deleted.")
@click.option("--paid", is_flag=True, help="Delete also rows that models were asked for.")
@click.pass_obj
def clean(runs: Path, run: Path, dry_run: bool, paid: bool) -> None:
    """Delete the results of earlier settings that RUN keeps in previous/, and print what that frees.

    `retort diff` can then not compare with them, and changing a setting back repeats its stage.
    """
    from pipeline.clean import clean as cleaning

    for line in cleaning(inspect.open_named(runs, run), dry_run, paid):
        print(line)


@cli.command(context_settings={"ignore_unknown_options": True})  # an answer may begin with a minus
@click.option("--gold", help="The reference answer, or a solution that ends with it.")
@click.option("--pred", help="The response to grade.")
@click.option("--pairs", type=click.Path(path_type=Path), help='JSONL whose rows have "gold" and "pred".')
@click.option("--type", "answer_type", type=click.Choice(ANSWER_TYPES), default="math", show_default=True)
@click.argument("words", nargs=-1, metavar="[REFERENCE RESPONSE] [NAME=VALUE]...")
def verify(
    gold: str | None, pred: str | None, pairs: Path | None, answer_type: str, words: tuple[str, ...]
) -> None:
    """Grade a response as the filter `correct` does, or each row of a file.

    For example: retort verify 1/2 0.5

    --pairs writes each row to stdout as a JSON line, with verdict (correct, incorrect, undecided), reason,
    layer and ms added. Settings are the parameters of `correct`, e.g. rounding_digits=3.
    """
    from pipeline.cli import verify as verifying

    if pairs is None and gold is None and pred is None and len(words) > 1:
        gold, pred, *words = words  # type: ignore[assignment]
    if pairs is not None and gold is None and pred is None:
        verifying.grade_pairs(pairs, answer_type, words)
    elif pairs is None and gold is not None and pred is not None:
        verifying.print_verdict(gold, pred, answer_type, words)
    else:
        raise UserError("verify needs a reference and a response, or --pairs FILE.jsonl")


for _command in (*stages.COMMANDS, *inspect.COMMANDS, *talk.COMMANDS, init, sbatch):
    cli.add_command(_command)


def main() -> None:
    """Runs a command. Whatever is not a bug ends in a short message and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot encode
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in background jobs
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = cli.main(standalone_mode=False, complete_var=shell_completion.VARIABLE)
    except click.ClickException as e:
        message = io.StringIO()
        e.show(message)
        say(message.getvalue().rstrip())
        code = 2
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; finished work is kept, run the same command to resume")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `retort show | head`
        code = 0
    except (UserError, Stopped) as e:
        code = _report(e)
    except (OSError, MemoryError) as e:
        code = _report(of_system(e, "this machine"))
    sys.exit(code or 0)


def _report(error: UserError | Stopped) -> int:
    """Prints an error in one line; returns the exit code."""
    stopped = isinstance(error, Stopped)
    say(f"retort: {'stopped: ' if stopped else ''}{error}")
    return 3 if stopped else 2
