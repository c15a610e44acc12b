"""What the fake model says: one-step arithmetic with its reasoning, sometimes incorrect.

Given the prompt of prompts/judge.txt it judges: a response that contains the reference is correct.
An answer depends on (model, messages, seed) alone. How it is truncated and sent is in protocol.py.
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
_FILLER = re.findall(
    r"\w+",
    "again also but check each fact first hence here if maybe next now once only perhaps so still then why",
)
_PRODUCT = re.compile(r"\b(each|every|per|times|product|multipl\w+|rows? of|bags? of|boxes of)\b", re.I)
_DIFFERENCE = re.compile(r"\b(left|remain\w*|g[ia]ves?|los[te]s?|ate|eats?|sold|spent|fewer|minus)\b", re.I)
_OPTION = re.compile(r"^([A-J])\. (-?\d{1,15})$", re.MULTILINE)
_OPERATORS = {"+": operator.add, "-": operator.sub} | dict.fromkeys("*x\u00d7", operator.mul)
_JUDGE_PROMPT = re.compile(r"=== REFERENCE ANSWER ===\n(.*?)\n\n=== RESPONSE[^\n]*\n(.*)", re.DOTALL)

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """Everything the model would say to a conversation without a token limit."""

    text: str
    reasoning_end: int
    response_start: int  # the length of the text if the reasoning is never closed
    stops_after: int | None  # tokens; the first request for a truncated answer gets no more


def digest(*parts: Any) -> str:
    """Hashes JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def uniform(*parts: Any) -> float:
    """Returns a number in [0, 1) that depends on the parts alone."""
    return int(digest(*parts)[:13], 16) / 16**13


def choose(at: float, shares: dict[str, float]) -> str | None:
    """Returns the name whose stretch of [0, 1) contains `at`; None beyond the last."""
    for name, width in shares.items():
        if at < width:
            return name
        at -= width
    return None


def opening(key: str) -> list[str]:
    """The first words of a long reasoning. They determine the rest, so any request can continue it."""
    return Random(key).choices(_FILLER, k=3)


def opening_of(text: str) -> list[str] | None:
    """Returns the opening with which the text begins, or None."""
    words = text.removeprefix(OPEN).split()[:3]
    return words if len(words) == 3 and {w.rstrip(".") for w in words} <= set(_FILLER) else None


def answer(
    options: argparse.Namespace,
    key: str,
    conversation: Messages,
    start: list[str] | None,
    thinking: bool = True,
) -> Answer:
    """Returns the answer to a conversation. `key` is the hash that decides it, `start` its opening.

    With thinking switched off it is the response alone, as it would follow the same reasoning.
    """
    question = next((str(m["content"]) for m in reversed(conversation) if m.get("role") == "user"), "")
    correct = _correct_share(options, question)
    shares = {"correct": correct, "malformed": options.malformed, "truncated": options.truncated}
    kind = choose(uniform(key, "kind"), shares) or "incorrect"
    reasoning, response = _judge(question, kind) or _calculate(question, kind, key)
    if options.words is not None:
        reasoning = _at_length(reasoning, options.words, start or opening(key), Random(key))
    if not thinking:
        return Answer(response, 0, 0, None)
    stops_after = len(reasoning.split()) // 2 if kind == "truncated" else None
    if options.plain:
        return Answer(reasoning if kind == "malformed" else f"{reasoning}\n{response}", 0, 0, stops_after)
    opened = (OPEN if options.reasoning == "inline" else "") + reasoning
    if kind == "malformed":
        text = f"{opened}\n{response}"
        return Answer(text, len(text), len(text), None)
    return Answer(opened + CLOSE + response, len(opened), len(opened + CLOSE), stops_after)


def _calculate(question: str, kind: str, key: str) -> tuple[str, str]:
    result = solve(question)
    if result is None or kind == "incorrect":
        result = (result or 0) + 1 + int(uniform(key, "slip") * 9)
    reasoning = f"I look for the numbers in the question. I work it out step by step and get {result}."
    return reasoning, f"The answer is {_letter(question, result) or result}."


def _letter(question: str, result: int) -> str | None:
    """The letter of the option with this result, or else of the first one; None if there are no options."""
    letters = {int(number): letter for letter, number in _OPTION.findall(question)}
    return letters.get(result, next(iter(letters.values()))) if letters else None


def _judge(question: str, kind: str) -> tuple[str, str] | None:
    """Returns reasoning and verdict if the question is a judge prompt, else None."""
    prompt = _JUDGE_PROMPT.search(question)
    if prompt is None:
        return None
    reference, response = prompt.groups()
    same = re.search(rf"(?<!\w){re.escape(reference.strip())}(?!\w)", response) is not None
    verdict = "correct" if same != (kind == "incorrect") else "incorrect"
    return "I compare the response with the reference.", f"It is {verdict}.\n\nVERDICT: {verdict}"


def _correct_share(options: argparse.Namespace, question: str) -> float:
    """The probability of a correct answer: --correct, or with --spread a value with that mean."""
    if not options.spread or not options.correct:
        return options.correct
    limit = 1 - options.malformed - options.truncated
    # The mean of u ** a over u in [0, 1) is 1 / (1 + a).
    return limit * uniform(options.seed, "difficulty", question) ** max(limit / options.correct - 1, 0)


def _at_length(reasoning: str, length: int, start: list[str], random: Random) -> str:
    """Pads the reasoning with filler before it, or keeps its last words, to get `length` words."""
    end = reasoning.split()[-length:]
    words = [*start, *random.choices(_FILLER, k=length)][: length - len(end)]
    lines = [" ".join(words[i : i + 12]) + "." for i in range(0, len(words), 12)]
    return "\n".join([*lines, " ".join(end)])


def solve(question: str) -> int | None:
    """Returns the result of "12 + 30" or of a word problem with two numbers; None if it finds neither."""
    if figures := re.search(r"\d{1,15}(?:\s*[-+*x\u00d7]\s*\d{1,15})+", question):
        # Evaluated left to right: sums and products are correct, mixtures may not be.
        first, *rest = re.findall(r"([-+*x\u00d7]?)\s*(\d+)", figures.group())
        return reduce(lambda result, step: _OPERATORS[step[0]](result, int(step[1])), rest, int(first[1]))
    numbers = [int(n) for n in re.findall(r"\d{1,15}", question)]
    if len(numbers) < 2:
        return None
    sign = "*" if _PRODUCT.search(question) else "-" if _DIFFERENCE.search(question) else "+"
    return _OPERATORS[sign](numbers[0], numbers[1])
