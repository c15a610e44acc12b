"""The shell commands. Each loads what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.cli import inspect as commands
from pipeline.cli import shell_completion
from pipeline.engine.progress import say
from pipeline.errors import Stopped, UserError, of_system

if TYPE_CHECKING:
    from pipeline.config import Recipe

HELP = {
    "ingest": "Read problems from the recipe's sources; split them into train and held-out.",
    "generate": "Draw the teacher's traces for the training problems.",
    "filter": "Judge every trace by every rule; nothing is taken away.",
    "select": "Make training examples of the kept traces.",
    "train": "Fine-tune the student on the examples.",
    "evaluate": "Compare base student, trained student and teacher; or score one model alone.",
}
ANSWER_TYPES = ("math", "number", "choice", "text", "yes_no", "json")  # that need no more than the two texts
EXIT_CODES = (
    "Exit codes: 0 done; 2 a mistake to put right, in one line; 3 units failed, the same command tries "
    "them again; 130 interrupted, the same command goes on."
)


@click.group(
    epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
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
    """Distil reasoning: sample thoughts from a teacher, keep those that can be trusted, fine-tune a student
    on them, measure it.

    A run is one recipe (TOML) and the folder its stages write. Every stage resumes: the same command again
    does what is still owed and nothing twice. Settings are overridden as KEY=VALUE, e.g. generate.samples=2.
    """
    context.obj = runs


def _stage_command(name: str) -> click.Command:
    @click.argument("recipe", type=click.Path(path_type=Path), shell_complete=shell_completion.recipes)
    @click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    @click.pass_obj
    def command(runs: Path, recipe: Path, overrides: tuple[str, ...]) -> int:
        return _execute((name,), runs, _load(recipe, overrides), (str(recipe), *overrides))

    return click.command(name, help=HELP[name], short_help=HELP[name])(command)


for _name in HELP:
    if _name != "evaluate":
        cli.add_command(_stage_command(_name))


@cli.command(short_help=HELP["evaluate"])
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...", shell_complete=shell_completion.recipes)
@click.option("--model", help="Score this model alone, without a recipe; vLLM serves it, or --base-url.")
@click.option("--problems", metavar="FILE", help="On these: JSONL, JSON, CSV or Parquet.")
@click.option("--base-url", metavar="URL", help="An OpenAI-compatible endpoint that has the model.")
@click.option("--api-key-env", metavar="NAME", help="The environment variable with its key.")
@click.option("--prompt", help="A file of prompts/, or a path to one.  [default: plain]")
@click.option("--question", metavar="COLUMN", help="Where the questions are.  [default: question]")
@click.option("--answer", metavar="COLUMN", help="Where the right answers are.  [default: answer]")
@click.option("--answer-type", metavar="TYPE", help="How answers are compared.  [default: math]")
@click.pass_obj
def evaluate(
    runs: Path, words: tuple[str, ...], model: str | None, problems: str | None, **given: str | None
) -> int:
    """Compare base student, trained student and teacher of RECIPE; or score --model on --problems, alone.

    What comes of a model alone is a run like any other, called after the model and the file, or run=NAME.
    Sampling is DeepSeek-R1's, with 4 samples a problem: temperature 0.6, top_p 0.95, no system prompt; others
    are KEY=VALUE, e.g. evaluate.samples=16 evaluate.max_tokens=32768 teacher.vllm.max_model_len=40960.
    """
    if model and problems and all("=" in word for word in words):
        from pipeline.evaluate.single_model import recipe_alone

        recipe = recipe_alone(model, problems, **given, overrides=words)
        return _execute(("ingest", "evaluate"), runs, recipe)
    if model or problems or any(given.values()) or not words:
        raise UserError("evaluate takes a RECIPE, or --model and --problems without one")
    return _execute(("evaluate",), runs, _load(Path(words[0]), words[1:]), words)


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path), shell_complete=shell_completion.recipes)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_obj
def run(runs: Path, recipe: Path, overrides: tuple[str, ...]) -> int:
    """Run all six stages, each from where it stands, and print the evaluation's table.

    Nothing starts before everything that the stages need is there, as `retort check` looks for it. Without a
    [student] in RECIPE nothing is trained, and evaluate scores the teachers.
    """
    from pipeline.stages import stages_of

    loaded = _load(recipe, overrides)
    return _execute(tuple(stages_of(loaded)), runs, loaded, (str(recipe), *overrides), whole=True)


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path), shell_complete=shell_completion.recipes)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gpus", metavar="N x GB", help="Answer for a machine with such GPUs, e.g. 8x80.")
@click.option("--to", metavar="FOLDER|hub:OWNER/NAME", help="Look at this target of `retort publish`, too.")
@click.pass_obj
def check(runs: Path, recipe: Path, overrides: tuple[str, ...], gpus: str | None, to: str | None) -> int:
    """Look for all that RECIPE's stages will need, and say what is missing; nothing is started or paid.

    Settings, sources, packages, keys, servers, models, chat template, GPU memory, disk: of the stages that
    are not complete yet. Exit code 2 when something is missing.
    """
    from pipeline import hardware
    from pipeline.check import requirements

    if gpus is not None:
        hardware.assume(*_gpus(gpus))
    loaded = _load(recipe, overrides)
    found = requirements.needs(loaded, runs / loaded.run, to)
    requirements.print_needs(found)
    return 2 if any(need.state == "missing" for need in found) else 0


def _gpus(text: str) -> tuple[int, float]:
    count, _, gigabytes = text.partition("x")
    try:
        if int(count) > 0 and float(gigabytes) > 0:
            return int(count), float(gigabytes)
    except ValueError:
        pass
    raise UserError(f"--gpus {text}: write how many and how large, e.g. 8x80")


for _command in commands.ALL:
    cli.add_command(_command)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), shell_complete=shell_completion.runs)
@click.option("--to", required=True, metavar="FOLDER|hub:OWNER/NAME", help="Where it is written or uploaded.")
@click.option("--with-traces", is_flag=True, help="Add every trace with its verdicts, rejected ones too.")
@click.option("--no-student", is_flag=True, help="Leave out the trained student.")
@click.option("--private", is_flag=True, help="Make new repositories on the hub private.")
@click.pass_obj
def publish(runs: Path, run: Path, to: str, with_traces: bool, no_student: bool, private: bool) -> None:
    """Write RUN's data set and student, with their cards, as Hugging Face expects them.

    On the hub the student becomes OWNER/NAME-student; the token is huggingface_hub's to find (HF_TOKEN).
    """
    from pipeline import publish as publishing

    opened = commands.open_named(runs, run)
    publishing.publish(opened, to, with_traces=with_traces, with_student=not no_student, private=private)


@cli.command()
@click.option("--gold", help="The reference answer, or a solution that ends on it.")
@click.option("--pred", help="The response to judge.")
@click.option("--pairs", type=click.Path(path_type=Path), help='JSONL whose rows have "gold" and "pred".')
@click.option("--type", "answer_type", type=click.Choice(ANSWER_TYPES), default="math", show_default=True)
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
def verify(
    gold: str | None, pred: str | None, pairs: Path | None, answer_type: str, settings: tuple[str, ...]
) -> None:
    """Is the answer right? What the filter `correct` says of one pair, or of each row of a file.

    With --pairs each row is written to stdout as one JSON line, with verdict (correct, incorrect, unknown),
    reason, layer and ms added. Settings are the parameters of `correct`, e.g. rounding_digits=3.
    """
    from pipeline.cli import verify as verifying

    if pairs is not None and gold is None and pred is None:
        verifying.judge_pairs(pairs, answer_type, settings)
    elif pairs is None and gold is not None and pred is not None:
        verifying.print_verdict(gold, pred, answer_type, settings)
    else:
        raise UserError("verify needs --gold and --pred, or --pairs FILE.jsonl")


def _load(recipe: Path, overrides: Sequence[str]) -> Recipe:
    from pipeline.config.load import load_recipe

    return load_recipe(recipe, overrides)


def _execute(
    names: Sequence[str], runs: Path, recipe: Recipe, words: Sequence[str] = (), whole: bool = False
) -> int:
    """Run stages and say what is next; the exit code of the first that is not done.

    All of them are checked before any writes; `whole`: and all that they will need is looked for. `words`:
    what a command for the next stage has after its name.
    """
    from pipeline.config.load import shown
    from pipeline.engine.stage import DONE, check_made, execute
    from pipeline.inspect import stage_summary
    from pipeline.stages import STAGES, stages_of

    wanted, folder = stages_of(recipe), runs / recipe.run
    stages = STAGES | wanted
    if whole:
        from pipeline.check import requirements

        requirements.require(recipe, folder)
    else:
        for name in names:
            stages[name].check(recipe)
    for name in names:
        check_made(stages[name], recipe, folder)
    for name in names:
        if name == "evaluate" and "select" in names and recipe.student is None:
            say("train: skipped, the recipe has no [student]; evaluate scores the teachers alone")
        code = execute(stages[name], stages, recipe, folder)
        if code != DONE:
            return code
        for line in stage_summary.lines(commands.open_named(runs, folder), name):
            say(line)
    if "evaluate" in names:
        from pipeline.inspect import score_table

        score_table.print_table(commands.open_named(runs, folder))
    following = list(wanted)[list(wanted).index(names[-1]) + 1 :]
    again = (*words[:1], *map(shown, words[1:]))
    say(stage_summary.next_command(runs, (following[0], *again) if following else ("report", recipe.run)))
    return DONE


def main() -> None:
    """Run a command; what is not a bug ends in a short message and an exit code, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of what a terminal's encoding does not have
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when started in the background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = cli.main(standalone_mode=False, complete_var=shell_completion.VARIABLE)
    except click.ClickException as e:
        shown = io.StringIO()
        e.show(shown)
        say(shown.getvalue().rstrip())
        code = 2
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; what was finished is kept, the same command goes on")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `retort show | head`
        code = 0
    except (UserError, Stopped) as e:
        code = _told(e)
    except (OSError, MemoryError) as e:
        code = _told(of_system(e, "this machine"))
    sys.exit(code or 0)


def _told(error: UserError | Stopped) -> int:
    """Say it in one line; gives the exit code."""
    stopped = isinstance(error, Stopped)
    say(f"retort: {'stopped: ' if stopped else ''}{error}")
    return 3 if stopped else 2
