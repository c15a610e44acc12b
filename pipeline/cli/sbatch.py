"""Prints the Slurm script that runs a recipe. slurm.sh is the part that no option changes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline import install_hints
from pipeline.cli.stages import load, overrides_argument, recipe_argument
from pipeline.errors import UserError

BODY = Path(__file__).with_name("slurm.sh")
HEAD = """\
#!/usr/bin/env bash
# Made by: {made_by}
# Runs a recipe across time limits: Slurm sends SIGTERM 15 minutes before the limit, the stage keeps its
# finished work, and the job goes back into the queue. RETORT names another program than the one below.
#
#   sbatch FILE                                      all stages, one after the other
#   sbatch --array=0-99 --nodes=1 FILE generate      100 jobs of one node that share the shards of a stage;
#   sbatch --dependency=afterany:JOB FILE            then retry what they left, and go on
#
#SBATCH --job-name=retort-{run}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@900
program={program}
gpus={gpus} # of each node
runs={runs}
recipe=({recipe})
stages=({stages})

"""


@click.command()
@recipe_argument
@overrides_argument
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes of the job.")
@click.option(
    "--gpus-per-node", "gpus", type=click.IntRange(min=1), default=8, show_default=True, help="GPUs a node."
)
@click.option("--cpus-per-node", "cpus", type=click.IntRange(min=1), help="Cores a node.  [default: 8 a GPU]")
@click.option("--time", default="24:00:00", show_default=True, help="Time limit, as Slurm writes it.")
@click.pass_obj
def sbatch(
    runs: Path, recipe: Path, overrides: tuple[str, ...], nodes: int, gpus: int, cpus: int | None, time: str
) -> None:
    """Print a Slurm script that runs RECIPE. Nothing is submitted.

    On several nodes each samples and filters a share of the shards, and all train together, one process for
    each GPU. docs/cluster.md explains the script. Give partition and account to sbatch.
    """
    click.echo(script(runs, recipe, overrides, nodes, gpus, cpus or 8 * gpus, time), nl=False)


def script(
    runs: Path, recipe: Path, overrides: Sequence[str], nodes: int, gpus: int, cpus: int, time: str
) -> str:
    """The script. Raises UserError for a recipe that the nodes cannot train."""
    from pipeline.stages import stages_of
    from pipeline.train import launcher

    loaded = load(recipe, overrides)
    if loaded.chain and nodes > 1:
        raise UserError("--nodes: the steps of [rounds] and [[cascade]] run on one node")
    if not re.fullmatch(r"\d+(-\d+)?(:\d+){0,2}", time):
        raise UserError(f"--time {time}: write it as Slurm does, e.g. 24:00:00 or 2-00:00:00")
    if nodes > 1 and loaded.student is not None:
        launcher.accumulation_steps(loaded.train, nodes * gpus)
    words = shlex.join([str(recipe), *overrides])
    size = f"--nodes {nodes} --gpus-per-node {gpus} --cpus-per-node {cpus} --time {time}"
    head = HEAD.format(
        program=shlex.quote(install_hints.program()),
        made_by=f"retort sbatch {words} {size}".replace("\n", " "),
        run=loaded.run,
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        time=time,
        runs=shlex.quote(str(runs)),
        recipe=words,
        stages="run" if loaded.chain else " ".join(stages_of(loaded)),
    )
    return head + BODY.read_text(encoding="utf-8")
