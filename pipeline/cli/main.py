"""The command line. Each command imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.cli import inspect, shell_completion
from pipeline.cli.sbatch import sbatch
from pipeline.cli.sections import DIVIDED, SECTIONS, STAGE_NAMES, Sections
from pipeline.engine.options import Options
from pipeline.engine.progress import say
from pipeline.errors import Stopped, UserError, of_system

if TYPE_CHECKING:
    from pipeline.config import Recipe
    from pipeline.train.nodes import Nodes

ANSWER_TYPES = ("math", "number", "choice", "text", "yes_no", "json")  # graded from two texts alone
EXIT_CODES = (
    "Exit codes: 0 done; 2 a mistake to correct, told in one line; 3 some items failed, run the same command "
    "to retry them; 130 interrupted, run the same command to resume."
)


_recipe = click.argument("recipe", type=click.Path(path_type=Path), shell_complete=shell_completion.recipes)
_overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


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


def _part(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Reads "3/100": the shards 3, 103, 203 and so on."""
    if text is None:
        return None
    first, _slash, step = text.partition("/")
    if not (first.isdecimal() and step.isdecimal() and int(first) < int(step)):
        raise UserError(f"--part {text}: write the number of this part, from 0, and how many there are: 0/8")
    return int(first), int(step)


_partial = click.option(
    "--partial", is_flag=True, help="Work on what an unfinished stage has; a later command completes it."
)
_again = click.option(
    "--again", is_flag=True, help="Make again what contradicting settings made; RUN/previous keeps it."
)
_ray = click.option("--ray", metavar="ADDRESS", help="Work on a Ray cluster: auto, local, or HOST:PORT.")


def _options(
    partial: bool, again: bool, part: tuple[int, int] | None = None, ray: str | None = None
) -> Options:
    if ray is None:
        return Options(partial, again, part)
    if part is not None:
        raise UserError("--part and --ray: both hand out the shards; give one of them")
    from pipeline.engine.ray_executor import hand_out

    return Options(partial, again, hand_out=functools.partial(hand_out, ray))


def _stage_command(name: str) -> click.Command:
    @_recipe
    @_overrides
    @_partial
    @_again
    @click.pass_obj
    def command(
        runs: Path,
        recipe: Path,
        overrides: tuple[str, ...],
        partial: bool,
        again: bool,
        part: tuple[int, int] | None = None,
        ray: str | None = None,
    ) -> int:
        loaded = _load(recipe, overrides)
        if name == "train" and (place := _place(loaded)).rank:
            from pipeline.train.follower import follow

            follow(loaded, runs / loaded.run, place)
            return 0
        return _execute((name,), runs, loaded, _options(partial, again, part, ray), (str(recipe), *overrides))

    text = f"{SECTIONS['Stages'][name]}. The same command resumes the stage, or retries what failed."
    if name in DIVIDED:
        part = "Do every N-th shard only, from the I-th (from 0): for array jobs."
        command = click.option("--part", callback=_part, metavar="I/N", help=part)(_ray(command))
    return click.command(name, help=text)(command)


@cli.command()
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...", shell_complete=shell_completion.recipes)
@click.option("--model", help="Score this model without a recipe; vLLM serves it, or --base-url.")
@click.option("--problems", metavar="FILE", help="Problems for --model: JSONL, JSON, CSV or Parquet.")
@click.option("--base-url", metavar="URL", help="An OpenAI-compatible server that has the model.")
@click.option("--api-key-env", metavar="NAME", help="The environment variable with its key.")
@click.option("--prompt", help="Name of a file in prompts/, or a path.  [default: plain]")
@click.option("--question", metavar="COLUMN", help="Column with the questions.  [default: question]")
@click.option("--answer", metavar="COLUMN", help="Column with the reference answers.  [default: answer]")
@click.option("--answer-type", metavar="TYPE", help="How answers are compared.  [default: math]")
@_partial
@_again
@_ray
@click.pass_obj
def evaluate(
    runs: Path,
    /,
    words: tuple[str, ...],
    model: str | None,
    problems: str | None,
    partial: bool,
    again: bool,
    ray: str | None,
    **given: str | None,
) -> int:
    """Compare base student, trained student and teacher of RECIPE, or score --model alone on --problems.

    A model scored alone is a run like any other, named after the model and the file, or by run=NAME. It is
    sampled as in DeepSeek-R1's evaluation, but 4 times a problem: temperature 0.6, top_p 0.95, no system
    prompt. KEY=VALUE changes that, e.g. evaluate.samples=16 evaluate.max_tokens=32768
    teacher.vllm.max_model_len=40960.
    """
    options = _options(partial, again, ray=ray)
    if model and problems and all("=" in word for word in words):
        from pipeline.evaluate.single_model import single_model_recipe

        recipe = single_model_recipe(model, problems, **given, overrides=words)
        return _execute(("ingest", "evaluate"), runs, recipe, options)
    if model or problems or any(given.values()) or not words:
        raise UserError("evaluate takes a RECIPE, or --model and --problems without one")
    return _execute(("evaluate",), runs, _load(Path(words[0]), words[1:]), options, words)


@cli.command()
@_recipe
@_overrides
@_partial
@_again
@_ray
@click.pass_obj
def run(
    runs: Path, recipe: Path, overrides: tuple[str, ...], partial: bool, again: bool, ray: str | None
) -> int:
    """Run or resume all stages and print the scores.

    Starts only if everything that the stages need is there, as `retort check` finds it. Without a [student]
    in RECIPE nothing is trained and evaluate scores the teachers.
    """
    from pipeline.stages import stages_of

    loaded = _load(recipe, overrides)
    options, words = _options(partial, again, ray=ray), (str(recipe), *overrides)
    return _execute(tuple(stages_of(loaded)), runs, loaded, options, words, whole=True)


@cli.command()
@_recipe
@_overrides
@click.option("--gpus", metavar="N x GB", help="Check for a machine with these GPUs, e.g. 8x80.")
@click.option("--to", metavar="FOLDER|hub:OWNER/NAME", help="Also check this target of `retort publish`.")
@click.pass_obj
def check(runs: Path, recipe: Path, overrides: tuple[str, ...], gpus: str | None, to: str | None) -> int:
    """List what RECIPE's unfinished stages need and what is missing. Nothing is started or paid for.

    Checks settings, sources, packages, keys, servers, models, chat template, GPU memory and disk. The exit
    code is 2 if something is missing.
    """
    from pipeline import hardware
    from pipeline.check import requirements

    if gpus is not None:
        hardware.assume(*_gpus(gpus))
    loaded = _load(recipe, overrides)
    found = requirements.find(loaded, runs / loaded.run, to)
    requirements.print_table(found)
    return 2 if any(each.state == "missing" for each in found) else 0


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
@click.option("--no-student", is_flag=True, help="Leave out the trained student.")
@click.option("--private", is_flag=True, help="Make new repositories on the hub private.")
@click.pass_obj
def publish(runs: Path, run: Path, to: str, with_traces: bool, no_student: bool, private: bool) -> None:
    """Write RUN's data set and student, with their cards, in the layout of the Hugging Face hub.

    On the hub the student is named OWNER/NAME-student. The token is huggingface_hub's own (HF_TOKEN).
    """
    from pipeline import publish as publishing

    opened = inspect.open_named(runs, run)
    publishing.publish(opened, to, with_traces=with_traces, with_student=not no_student, private=private)


@cli.command()
@click.option("--gold", help="The reference answer, or a solution that ends with it.")
@click.option("--pred", help="The response to grade.")
@click.option("--pairs", type=click.Path(path_type=Path), help='JSONL whose rows have "gold" and "pred".')
@click.option("--type", "answer_type", type=click.Choice(ANSWER_TYPES), default="math", show_default=True)
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
def verify(
    gold: str | None, pred: str | None, pairs: Path | None, answer_type: str, settings: tuple[str, ...]
) -> None:
    """Grade a response as the filter `correct` does, or each row of a file.

    --pairs writes each row to stdout as a JSON line, with verdict (correct, incorrect, undecided), reason,
    layer and ms added. Settings are the parameters of `correct`, e.g. rounding_digits=3.
    """
    from pipeline.cli import verify as verifying

    if pairs is not None and gold is None and pred is None:
        verifying.grade_pairs(pairs, answer_type, settings)
    elif pairs is None and gold is not None and pred is not None:
        verifying.print_verdict(gold, pred, answer_type, settings)
    else:
        raise UserError("verify needs --gold and --pred, or --pairs FILE.jsonl")


for _command in (
    *inspect.COMMANDS,
    sbatch,
    *(_stage_command(name) for name in STAGE_NAMES if name != "evaluate"),
):
    cli.add_command(_command)


def _place(recipe: Recipe) -> Nodes:
    """Where this process is among the nodes of the recipe's training."""
    from pipeline.train import launcher

    return launcher.placement(recipe.train.accelerate)


def _load(recipe: Path, overrides: Sequence[str]) -> Recipe:
    from pipeline.config.load import load_recipe

    return load_recipe(recipe, overrides)


def _execute(
    names: Sequence[str],
    runs: Path,
    recipe: Recipe,
    options: Options,
    words: Sequence[str] = (),
    whole: bool = False,
) -> int:
    """Runs stages and prints the next command; returns the exit code of the last one.

    `words` are the arguments on the command line, for the command of the next stage.
    """
    from pipeline.config.load import redacted_override
    from pipeline.engine.execute import DONE
    from pipeline.inspect import stage_summary
    from pipeline.run_stages import execute_all
    from pipeline.stages import stages_of

    for _, code in execute_all(recipe, names, runs, options, whole):
        if code != DONE:
            return code
    if options.part is not None:
        return DONE
    wanted = list(stages_of(recipe))
    following = wanted[wanted.index(names[-1]) + 1 :]
    again = (*words[:1], *map(redacted_override, words[1:]))
    say(stage_summary.next_command(runs, (following[0], *again) if following else ("report", recipe.run)))
    return DONE


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
