"""The command line of the fake server: how it answers, how fast, and which faults it plays."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

WAYS = ("inline", "reasoning_content", "reasoning", "opened")
STATUSES = ("429", "500", "502", "503", "529")
WORDLESS = ("empty", "tools")
FAULTS = (*STATUSES, "cut", "stall", "hang", "garbage", *WORDLESS)
_EXPLAINED = """The statuses are errors. "cut" closes the connection in mid-answer; "stall" sends half an
answer and then nothing, "hang" nothing at all; "garbage" is HTML with status 200, "empty" an answer without
content and token counts, "tools" the call of a tool instead of an answer."""


def parse(description: str, words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in these words (default: the process's own); what makes no sense ends it with one line."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.fake_server",
        usage="%(prog)s [options]",
        description=description,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
    )
    _add_general(parser)
    _add_answers(parser.add_argument_group("what it says"))
    _add_pace(parser.add_argument_group("how fast"))
    _add_faults(parser.add_argument_group(f"faults: {', '.join(FAULTS)}", _EXPLAINED))
    options = parser.parse_args(words)
    _check(parser, options)
    options.model = options.model or ["fake"]
    try:
        options.log = options.log and options.log.open("a")
    except OSError as e:
        parser.error(f"--log {options.log}: {e.strerror}")
    return options


def _add_general(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=0, metavar="N", help="0: any free one; the first line printed says it")
    add("--model", action="append", metavar="NAME", help="one it knows; may be repeated (default: fake)")
    add("--key-env", metavar="NAME", help="ask for the key in this environment variable")
    add("--log", type=Path, metavar="FILE", help="append the hash of each answered request")


def _add_answers(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_share = partial(add, type=float, metavar="SHARE")
    add("--seed", type=int, default=0, metavar="N", help="another seed gives other answers and faults")
    add("--thoughts", choices=WAYS, default="inline", metavar="WAY", help=f"one of {', '.join(WAYS)}")
    add("--plain", action="store_true", help="think in plain text, without tags or a field of its own")
    add("--words", type=_whole, metavar="N", help="words of a thought (default: two sentences)")
    add_share("--right", default=0.6, help="right answers; what no share covers is wrong (%(default)s)")
    add_share("--malformed", default=0.1, help="answers whose thought is never closed (%(default)s)")
    add_share("--truncated", default=0.05, help="thoughts cut off half-way (%(default)s)")
    add("--spread", action="store_true", help="questions are easy or hard; --right is the mean over them")
    add("--too-long", metavar="TEXT", help="a prompt with this text is refused as longer than the context")
    add("--no-continue", action="store_true", help="refuse to go on with an answer that was cut off")
    add("--template", action="store_true", help="show a chat template that closes thoughts, as vLLM")
    add("--no-logprobs", action="store_true", help="ignore the wish for log-probabilities")
    add("--no-usage", action="store_true", help="send no counts of tokens")
    add("--refuse", action="append", default=[], metavar="FIELD", help="of a request; may be repeated")


def _add_pace(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--latency", type=float, default=0, metavar="SECONDS", help="before each answer")
    add("--speed", type=float, default=0, metavar="N", help="words a second (default: all at once)")
    add("--slots", type=_whole, metavar="N", help="requests at once; any more are answered 429")
    add("--rpm", type=_whole, metavar="N", help="requests in any minute; any more are answered 429")
    add(
        "--retry-after",
        type=float,
        default=1,
        metavar="SECONDS",
        help="sent with 429, 503, 529 (%(default)s)",
    )


def _add_faults(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--faults",
        type=json.loads,
        default={},
        metavar="JSON",
        help='such as {"429": 0.2}: shares of all tries',
    )
    add("--faulty-tries", type=int, metavar="N", help="a request's first tries only may meet a fault (any)")
    add(
        "--hang", type=float, default=math.inf, metavar="SECONDS", help='until "stall" and "hang" end (never)'
    )
    add(
        "--gone",
        type=_stretch,
        metavar="FROM,SECONDS",
        help="unreachable for SECONDS, FROM seconds after the first request",
    )


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not isinstance(options.faults, dict) or not set(options.faults) <= set(FAULTS):
        parser.error(f"--faults: a JSON object; known faults: {', '.join(FAULTS)}")
    for shares in (options.faults.values(), (options.right, options.malformed, options.truncated)):
        if not all(isinstance(s, int | float) and s >= 0 for s in shares) or math.fsum(shares) > 1:
            parser.error("shares are numbers from 0 to 1, together at most 1")
    if options.key_env and not os.environ.get(options.key_env):
        parser.error(f"the environment variable {options.key_env} is not set")


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _stretch(text: str) -> tuple[float, float]:
    try:
        begin, seconds = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers of seconds, as in 10,60") from None
    return begin, seconds
