"""The commands by section, with their short helps, as `retort --help` lists them."""

import click

# Every command with its short help (at most 40 characters), in the order of --help.
SECTIONS = {
    "Start": {
        "init": "Write a recipe for your data",
        "check": "Look for mistakes, needs and cost",
        "doctor": "Show what this machine can do",
    },
    "Stages": {
        "sbatch": "Print a Slurm script for the recipe",
        "run": "Run all stages",
        "ingest": "Read and split the problems",
        "generate": "Sample traces from the teacher",
        "filter": "Apply the filters to every trace",
        "score": "Let the student read the kept traces",
        "select": "Make training examples of kept traces",
        "train": "Fine-tune the student",
        "compress": "Quantize and export the student",
        "evaluate": "Score base, student and teacher",
    },
    "Look": {
        "status": "Show the progress of runs",
        "why": "Show why traces were rejected",
        "show": "Print traces and other rows",
        "view": "Show every trace in a local web page",
        "teachers": "Rank the teachers before training",
        "diff": "Compare two runs",
        "verify": "Grade an answer, or a file of answers",
        "ablate": "Train with rules on and off, and compare",
    },
    "Use": {
        "chat": "Talk to the student in the terminal",
        "serve": "Serve the student, OpenAI-compatible",
    },
    "Share and tidy": {
        "report": "Write a run as one HTML file",
        "export": "Write examples or traces as JSON lines",
        "publish": "Write or upload data set and student",
        "clean": "Delete earlier results of a run",
        "completion": "Print the shell's completion script",
    },
}
STAGE_NAMES = list(SECTIONS["Stages"])[2:]
DIVIDED = ("generate", "filter", "select")  # stages whose shards several commands can share


class Sections(click.Group):
    """A group whose help lists the commands in sections."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for commands in SECTIONS.values() for name in commands]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(context)))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", short) for name, short in commands.items()])
