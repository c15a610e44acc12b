"""What the fake server says: arithmetic of one step, thought aloud, and sometimes wrong.

Asked as prompts/judge.txt asks, it judges: a response that holds the reference is correct, any other is not.
An answer is a function of (model, messages, seed) alone. Leaves out how it is cut and sent: protocol.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import operator
import re
from dataclasses import dataclass
from functools import reduce
from random import Random
from typing import Any

OPEN, CLOSE = "<think>\n", "\n</think>\n\n"
_WORDS = (
    "again also but check each fact first hence here if maybe next now once only perhaps so still then why"
)
_MUSINGS = re.findall("[a-z]+", _WORDS)
_PRODUCT = re.compile(r"\b(each|every|per|times|product|multipl\w+|rows? of|bags? of|boxes of)\b", re.I)
_DIFFERENCE = re.compile(r"\b(left|remain\w*|g[ia]ves?|los[te]s?|ate|eats?|sold|spent|fewer|minus)\b", re.I)
_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "x": operator.mul, "\u00d7": operator.mul}

_JUDGED = re.compile(r"=== REFERENCE ANSWER ===\n(.*?)\n\n=== RESPONSE[^\n]*\n(.*)", re.DOTALL)

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Text:
    """All that the model would ever say to a conversation, and where the parts of it are."""

    whole: str
    thought_end: int
    answer_start: int  # the end of the text when the thought is never closed
    limit: int | None  # tokens; the model stops here when it is first asked


def digest(*parts: Any) -> str:
    """A hash of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def share(*parts: Any) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int(digest(*parts)[:13], 16) / 16**13


def pick(at: float, shares: dict[str, float]) -> str | None:
    """The name whose stretch of [0, 1) holds `at`; None beyond the last."""
    for name, width in shares.items():
        if at < width:
            return name
        at -= width
    return None


def opening(drawn: str) -> list[str]:
    """The first words of a long thought, on which all that follows hangs: whoever continues it knows how."""
    return Random(drawn).choices(_MUSINGS, k=3)


def opening_in(said: str) -> list[str] | None:
    """The opening with which a text begins; None where it has none."""
    words = said.removeprefix(OPEN).split()[:3]
    return words if len(words) == 3 and {w.rstrip(".") for w in words} <= set(_MUSINGS) else None


def draw(
    options: argparse.Namespace, drawn: str, conversation: Messages, begun: list[str] | None = None
) -> Text:
    """The whole answer to a conversation; `drawn`: the hash that decides what it is, `begun`: its opening."""
    question = next((str(m["content"]) for m in reversed(conversation) if m.get("role") == "user"), "")
    right = _chance(options, question)
    shares = {"right": right, "malformed": options.malformed, "truncated": options.truncated}
    kind = pick(share(drawn, "kind"), shares) or "wrong"
    thought, answer = _judge(question, kind) or _calculate(question, kind, drawn)
    if options.words is not None:
        thought = _at_length(thought, options.words, begun or opening(drawn), Random(drawn))
    limit = len(thought.split()) // 2 if kind == "truncated" else None
    if options.plain:
        return Text(thought if kind == "malformed" else f"{thought}\n{answer}", 0, 0, limit)
    opened = (OPEN if options.thoughts == "inline" else "") + thought
    if kind == "malformed":  # it forgets to end the thought
        whole = f"{opened}\n{answer}"
        return Text(whole, len(whole), len(whole), None)
    return Text(opened + CLOSE + answer, len(opened), len(opened + CLOSE), limit)


def _calculate(question: str, kind: str, drawn: str) -> tuple[str, str]:
    """A thought and the answer after it."""
    result = solve(question)
    if result is None or kind == "wrong":
        result = (result or 0) + 1 + int(share(drawn, "slip") * 9)
    thought = f"I look for the numbers in the question. I work it out step by step and get {result}."
    return thought, f"The answer is {result}."


def _judge(question: str, kind: str) -> tuple[str, str] | None:
    """The same for one that asks for a verdict; None for any other."""
    asked = _JUDGED.search(question)
    if asked is None:
        return None
    reference, response = asked.groups()
    same = re.search(rf"(?<!\w){re.escape(reference.strip())}(?!\w)", response) is not None
    verdict = "correct" if same != (kind == "wrong") else "incorrect"
    return "I compare the response with the reference.", f"It is {verdict}.\n\nVERDICT: {verdict}"


def _chance(options: argparse.Namespace, question: str) -> float:
    """The share of right answers to a question; with --spread from near 0 to near 1, on average --right."""
    if not options.spread or not options.right:
        return options.right
    room = 1 - options.malformed - options.truncated
    # Over u in [0, 1) the mean of u ** a is 1 / (1 + a).
    return room * share(options.seed, "difficulty", question) ** max(room / options.right - 1, 0)


def _at_length(thought: str, length: int, begun: list[str], random: Random) -> str:
    """The thought in as many words as asked: with musings before it, or only its end."""
    end = thought.split()[-length:]
    words = [*begun, *random.choices(_MUSINGS, k=length)][: length - len(end)]
    lines = [" ".join(words[i : i + 12]) + "." for i in range(0, len(words), 12)]
    return "\n".join([*lines, " ".join(end)])


def solve(question: str) -> int | None:
    """The result of "12 + 30" or of a word problem with two numbers; None when it sees none."""
    if figures := re.search(r"\d{1,15}(?:\s*[-+*x\u00d7]\s*\d{1,15})+", question):
        # From left to right: sums and products come out right, a mixture may not.
        first, *rest = re.findall(r"([-+*x\u00d7]?)\s*(\d+)", figures.group())
        return reduce(lambda result, step: _SIGNS[step[0]](result, int(step[1])), rest, int(first[1]))
    numbers = [int(n) for n in re.findall(r"\d{1,15}", question)]
    if len(numbers) < 2:
        return None
    sign = "*" if _PRODUCT.search(question) else "-" if _DIFFERENCE.search(question) else "+"
    return _SIGNS[sign](numbers[0], numbers[1])
