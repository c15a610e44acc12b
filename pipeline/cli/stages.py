"""The commands that run stages."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import shell_completion
from pipeline.cli.sections import DIVIDED, SECTIONS, STAGE_NAMES
from pipeline.engine.options import Options
from pipeline.engine.progress import say
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Recipe
    from pipeline.train.nodes import Nodes

recipe_argument = click.argument(
    "recipe", type=click.Path(path_type=Path), shell_complete=shell_completion.recipes
)
overrides_argument = click.argument(
    "overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=shell_completion.overrides
)


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
    @recipe_argument
    @overrides_argument
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
        loaded = load(recipe, overrides)
        if name == "train" and (place := _place(loaded)).rank:
            from pipeline.train.follower import follow

            follow(loaded, runs / loaded.run, place)
            return 0
        return _execute((name,), runs, loaded, _options(partial, again, part, ray), (str(recipe), *overrides))

    text = f"{SECTIONS['Stages'][name]}. The same command resumes the stage, or retries what failed."
    if name in DIVIDED:
        part = "Do every N-th shard only, from the I-th (from 0): for array jobs."
        command = click.option("--part", callback=_part, metavar="I/N", help=part)(command)
    if name in (*DIVIDED, "train"):
        command = _ray(command)
    return click.command(name, help=text)(command)


@click.command()
@click.argument(
    "words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...", shell_complete=shell_completion.recipe_or_override
)
@click.option("--model", help="Score this model without a recipe; vLLM serves it, or --base-url.")
@click.option(
    "--problems", metavar="NAMES", help="Benchmarks, such as aime24,math500; for --model also a file."
)
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

    --problems adds usual benchmarks to the sets of RECIPE, from the hub, or NAME=PATH from a local copy.

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
    if model or any(given.values()) or not words:
        raise UserError("evaluate takes a RECIPE, or --model and --problems without one")
    from pipeline.config.benchmarks import sets_of
    from pipeline.config.load import load_recipe

    loaded = load_recipe(Path(words[0]), words[1:], sets_of(problems) if problems else ())
    return _execute(("evaluate",), runs, loaded, options, words)


@click.command()
@recipe_argument
@overrides_argument
@_partial
@_again
@_ray
@click.pass_obj
def run(
    runs: Path, recipe: Path, overrides: tuple[str, ...], partial: bool, again: bool, ray: str | None
) -> int:
    """Run or resume all stages and print the scores.

    Starts only if everything that the stages need is there, as `retort check` finds it. Without a [student]
    in RECIPE nothing is trained and evaluate scores the teachers. With [rounds] or [[cascade]] each step is a
    run of its own, and all of them are run.
    """
    from pipeline.stages import stages_of

    loaded = load(recipe, overrides)
    options, words = _options(partial, again, ray=ray), (str(recipe), *overrides)
    if loaded.chain:
        from pipeline.chain import run_chain

        return run_chain(loaded, runs, options)
    return _execute(tuple(stages_of(loaded)), runs, loaded, options, words, whole=True)


@click.command()
@recipe_argument
@overrides_argument
@click.option(
    "--without",
    "rules",
    multiple=True,
    required=True,
    metavar="RULE",
    help="A rule to switch off; repeatable.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Trainings of each.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_obj
def ablate(
    runs: Path, recipe: Path, overrides: tuple[str, ...], rules: tuple[str, ...], seeds: int, as_json: bool
) -> int:
    """Train the student with each RULE on and off, on equally many examples of the same paid traces.

    RULE is one of filter.rules, or majority, difficulty, contamination, duplicates. The trainings are runs
    RECIPE's run-with-all-seedN and -without-RULE-seedN; the same command resumes them. Prints the paired
    difference of pass@1 for each rule and set. JSON: Ablation of pipeline/ablate.py.
    """
    from pipeline.ablate import ablate, print_ablation
    from pipeline.inspect import show

    with contextlib.redirect_stdout(sys.stderr):  # the tables of each run; stdout has the result alone
        code, found = ablate(load(recipe, overrides), rules, seeds, runs)
    if found is not None:
        (show.print_json if as_json else print_ablation)(found)
    return code


def _place(recipe: Recipe) -> Nodes:
    """Where this process is among the nodes of the recipe's training."""
    from pipeline.train import launcher

    return launcher.placement(recipe.train.accelerate)


def load(recipe: Path, overrides: Sequence[str]) -> Recipe:
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
    from pipeline.run_stages import exit_code
    from pipeline.stages import stages_of

    if (code := exit_code(recipe, names, runs, options, whole)) != DONE:
        return code
    if options.part is not None:
        return DONE
    wanted = list(stages_of(recipe))
    following = wanted[wanted.index(names[-1]) + 1 :]
    again = (*words[:1], *map(redacted_override, words[1:]))
    say(stage_summary.next_command(runs, (following[0], *again) if following else ("report", recipe.run)))
    return DONE


COMMANDS = (run, evaluate, ablate, *(_stage_command(name) for name in STAGE_NAMES if name != "evaluate"))
