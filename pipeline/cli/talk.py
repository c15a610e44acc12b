"""The commands that use a student: chat and serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli import shell_completion
from pipeline.cli.inspect import open_named, run_argument
from pipeline.errors import UserError

_RUN: dict[str, Any] = {"type": click.Path(path_type=Path), "shell_complete": shell_completion.runs}


_scheme = click.option("--scheme", help="A form that `retort compress` made, e.g. w4a16 or gguf-q4_k_m.")


@click.command()
@click.argument("run", required=False, **_RUN)
@_scheme
@click.option("--model", help="Talk to this model: hub name, folder or GGUF file; or a name at --base-url.")
@click.option("--base-url", metavar="URL", help="An OpenAI-compatible server that has the model.")
@click.option("--api-key-env", metavar="NAME", help="The environment variable with its key.")
@click.option("--prompt", help="With --model: a file in prompts/, or a path.  [default: plain]")
@click.pass_obj
def chat(
    runs: Path,
    run: Path | None,
    scheme: str | None,
    model: str | None,
    base_url: str | None,
    api_key_env: str | None,
    prompt: str | None,
) -> None:
    """Talk to RUN's student, or to --model, in the terminal. vLLM serves it meanwhile.

    The student is asked with the prompt of its training and sampled as evaluate does. Reasoning is dimmed.
    Ctrl-C stops an answer, /reset begins a new conversation, /quit or Ctrl-D ends. From a pipe the input is
    one question: the answer goes to stdout, its reasoning to stderr.
    """
    from pipeline.chat import speaker, terminal

    if (run is None) == (model is None):
        raise UserError("chat takes a RUN, or --model")
    if scheme and run is None:
        raise UserError("--scheme is of a RUN")
    if prompt and run:
        raise UserError("--prompt is for --model: a run's student has the prompt of its training")
    if api_key_env and not base_url:
        raise UserError("--api-key-env names the key for --base-url")
    if model is not None:
        terminal.chat(speaker.model_of(model, base_url, api_key_env, prompt))
    elif run is not None:
        terminal.chat(speaker.student_of(open_named(runs, run), scheme, base_url, api_key_env))


@click.command()
@run_argument
@_scheme
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; 0 takes any free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.pass_obj
def serve(runs: Path, run: Path, scheme: str | None, port: int, host: str) -> None:
    """Serve RUN's student, OpenAI-compatible, until Ctrl-C: with vLLM, or as --scheme needs.

    Prints the URL, the model's name and a request by curl.
    """
    from pipeline.chat import serve as serving
    from pipeline.chat import speaker
    from pipeline.inference import vllm_server

    found = speaker.student_of(open_named(runs, run), scheme)
    vllm_server.usable_port(port, host)
    serving.serve(found, port, host)


COMMANDS = (chat, serve)
