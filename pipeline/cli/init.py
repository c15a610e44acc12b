"""`retort init`: writes a recipe for a file, and asks in a terminal for what is not given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.errors import UserError

# Graded from two texts alone.
ANSWER_TYPES = ("math", "number", "choice", "text", "yes_no", "json", "instructions")
VLLM = "vllm"
LONG = 300  # characters of a reference that is hardly repeated word for word


@click.command()
@click.option("--data", metavar="FILE", help="Problems or traces: JSONL, JSON, CSV or Parquet.")
@click.option("--out", type=click.Path(path_type=Path), help="The recipe to write.  [default: as the data]")
@click.option("--question", metavar="COLUMN", help="Column with the questions.  [default: a guess]")
@click.option("--answer", metavar="COLUMN", help="Column with the reference answers.  [default: a guess]")
@click.option(
    "--answer-type", type=click.Choice(ANSWER_TYPES), help="How answers are compared.  [default: a guess]"
)
@click.option("--model", help="The teacher: a hub name, folder or GGUF file; or its name at --base-url.")
@click.option("--base-url", metavar="URL", help="Server of the teacher.  [default: vLLM serves it here]")
@click.option("--api-key-env", metavar="NAME", help="The environment variable with its key.")
@click.option("--student", metavar="MODEL", help="The model to fine-tune.  [default: none]")
@click.pass_obj
def init(
    runs: Path,
    /,
    data: str | None,
    out: Path | None,
    question: str | None,
    answer: str | None,
    answer_type: str | None,
    **models: str | None,
) -> None:
    """Write a commented recipe for your data. Asks in a terminal for what is not given.

    The columns of the file are looked at, and what was found is printed. Nothing is run or paid for.
    """
    from pipeline.init import columns, write
    from pipeline.inspect.format import one_line
    from pipeline.inspect.stage_summary import next_command

    data = data or _ask("File with your problems, or with traces")
    if data is None:
        raise UserError("init needs --data FILE and, unless the file holds traces, --model NAME")
    source = columns.source_of(data, {"question": question, "answer": answer, "answer_type": answer_type})
    problem = columns.first_problem(source)
    shown = {name: value for name, value in source.items() if name not in ("kind", "path")}
    what = "traces" if source["kind"] == "traces" else "problems"
    print(f"{data} is read as {what}: " + ", ".join(f"{k} = {v!r}" for k, v in shown.items()))
    print(f"  its first question   {one_line(problem.question, 100)}")
    print(f"  its first reference  {one_line(problem.reference or '-', 100)}")
    if source["answer_type"] == "text" and len(problem.reference or "") > LONG:
        print('  long references are compared word for word; a judge compares them with answer_type = "free"')
    if source["kind"] != "traces":
        _ask_for_models(models)
    out = out or Path(f"{problem.source}.toml")
    write.write(out, source, models)
    print(f"wrote {out}")
    print(next_command(runs, ("check", str(out))))


def _ask_for_models(models: dict[str, Any]) -> None:
    """Fills in the models that are not given. Raises UserError without a teacher."""
    if models["model"] is None:
        url = models["base_url"] or _ask("URL of the teacher's server, or vllm to serve it here", VLLM)
        models["base_url"] = None if url == VLLM else url
        models["model"] = _ask("Name of the teacher's model")
        if models["model"] is None:
            raise UserError("init needs --model NAME, and --base-url URL for a server that runs already")
        if models["base_url"] and models["api_key_env"] is None:
            models["api_key_env"] = (
                _ask("Variable that holds its API key, empty if it needs none", "") or None
            )
        if models["student"] is None:
            models["student"] = _ask("Model to fine-tune, empty for none yet", "") or None


def _ask(question: str, default: str | None = None) -> str | None:
    """Asks in a terminal; elsewhere nobody can answer, so the default is taken."""
    if not sys.stdin.isatty():
        return default
    answer: str = click.prompt(question, default=default, show_default=bool(default), err=True)
    return answer.strip()
