"""The command line of the fake server: what it answers, how fast, and how often it fails."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from functools import partial

REASONING_STYLES = ("inline", "reasoning_content", "reasoning", "opened")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses `arguments` (default: the command line). Exits with one line if an option makes no sense."""
    parser = build_parser("python -m pipeline.fake_server")
    options = parser.parse_args(arguments)
    check(parser, options)
    return options


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The parser without its checks, so that another server can add options."""
    parser = argparse.ArgumentParser(
        prog,
        usage="%(prog)s [options]",
        description="A fake OpenAI-compatible server for rehearsing a recipe without a model.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
    )
    add = parser.add_argument_group("server").add_argument
    add("--port", type=int, default=0, metavar="N", help="0: any free one; the URL is the first line printed")
    add("--model", action="append", metavar="NAME", help="a model it serves; repeatable (default: fake)")
    add("--key-env", metavar="NAME", help="require the API key in this environment variable")

    add = parser.add_argument_group("answers").add_argument
    add("--seed", type=int, default=0, metavar="N", help="another seed gives other answers and errors")
    styles = ", ".join(REASONING_STYLES)
    add("--reasoning", choices=REASONING_STYLES, default="inline", metavar="STYLE", help=f"one of {styles}")
    add("--plain", action="store_true", help="reason in plain text, without tags or a separate field")
    add("--words", type=positive, metavar="N", help="words of reasoning (default: two sentences)")
    add_share = partial(add, type=float, metavar="SHARE")
    add_share("--correct", default=0.6, help="correct answers; the other share is incorrect (%(default)s)")
    add_share("--malformed", default=0.1, help="answers whose reasoning is never closed (%(default)s)")
    add_share("--truncated", default=0.05, help="answers that stop halfway through (%(default)s)")
    add("--spread", action="store_true", help="vary the difficulty of questions; --correct is the mean")

    add = parser.add_argument_group("pace and errors").add_argument
    add_seconds = partial(add, type=float, metavar="SECONDS")
    add_seconds("--latency", default=0, help="wait before each answer")
    add_seconds("--batch-seconds", default=1, help="until a batch is done (%(default)s)")
    add("--speed", type=float, default=0, metavar="N", help="words per second (default: all at once)")
    add("--slots", type=positive, metavar="N", help="concurrent requests; more are answered with 429")
    add("--rpm", type=positive, metavar="N", help="requests per minute; more are answered with 429")
    failing = "attempts that fail with 429, 500, 502 or 503"
    add("--errors", type=float, default=0, metavar="SHARE", help=failing)
    add_seconds("--retry-after", default=1, help="Retry-After of 429 and 503 (%(default)s)")
    return parser


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits with one line if the options contradict each other; fills in the default model."""
    options.model = options.model or ["fake"]
    for shares in ([options.errors], [options.correct, options.malformed, options.truncated]):
        check_shares(parser, shares)
    if options.key_env and not os.environ.get(options.key_env):
        parser.error(f"the environment variable {options.key_env} is not set")


def check_shares(parser: argparse.ArgumentParser, shares: Sequence[object]) -> None:
    numbers = [share for share in shares if isinstance(share, int | float) and share >= 0]
    if len(numbers) < len(shares) or math.fsum(numbers) > 1:
        parser.error("shares are numbers from 0 to 1, together at most 1")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
