"""The rules on long reasoning: legitimate repetition, loops, and hostile text."""

import itertools
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from filters.rules.repetition import MIN_STUTTER, RUN, STEP, find_repeats, find_stutter
from filters.table import FILTERS, apply_rules
from tests.unit.filters.test_table import a_trace

ROOT = Path(__file__).resolve().parents[4]
DICE = [throw for throw in itertools.product(range(1, 7), repeat=3) if sum(throw) != 10]
SENTENCE = "The total is {n}, because the first box holds {n} marbles less one and the second box holds one. "

BY_RIGHT = {
    "a table of sums": "\n".join(f"{a} + {b} = {a + b}" for a in range(1, 13) for b in range(1, 13)),
    "a table in words": "\n".join(f"{a} times {b} is {a * b}." for a in range(1, 13) for b in range(1, 13)),
    "an enumeration": "\n".join(
        f"({a},{b},{c}): sum {a + b + c}, not 10, so it does not count." for a, b, c in DICE
    ),
    "a search": "\n".join(
        f"For n = {n}: n^2 + n + 41 = {n * n + n + 41}. Is it divisible by 7? The remainder is "
        f"{(n * n + n + 41) % 7}, so {'yes, it is' if (n * n + n + 41) % 7 == 0 else 'it is not'}."
        for n in range(1, 120)
    ),
    "a long division": "\n".join(
        f"Bring down 0: {r}0 divided by 7 is {r * 10 // 7}, remainder {r * 10 % 7}."
        for r in [1, 3, 2, 6, 4, 5] * 3
    ),
    "one step of a division, six times": "Bring down 0: 10 divided by 3 is 3, remainder 1.\n" * 6,
    "a board of zeros": "\n".join(["0 0 0 0 0 0 0 0 0 0 0 0"] * 12),
    "decimals": "So 1/3 = 0." + "3" * 300 + " and 1/7 = 0." + "142857" * 50,
    "a sequence": "\n".join(
        f"a_{i} = a_{i - 1} + a_{i - 2} = {i * 17} + {i * 11} = {i * 28}" for i in range(150)
    ),
    "a check said twice": "\n".join(SENTENCE.format(n=n) for n in [*range(40), 7, 8]),
    "digits of a fraction": "So 1/81 = 0." + "012345679" * 40 + " and 1/9 = 0." + "1" * 900,
    "a rule": "Given\n" + "-" * 250 + "\nto find\n" + "= " * 120,
    "a board after each step": "\n\n".join(
        f"Step {step} puts a five into cell {step + 1}:\n"
        + "\n".join(" ".join("5" if 9 * row + cell <= step else "_" for cell in range(9)) for row in range(9))
        for step in range(40)
    ),
    "a board with named rows": "\n".join(
        f"Row {row}: " + " ".join("5" if 9 * row + cell <= step else "_" for cell in range(9))
        for step in range(40)
        for row in range(9)
    ),
    "the identity": r"\begin{pmatrix} 1 & 0 & 0 & 0 \\ 0 & 1 & 0 & 0 \\ 0 & 0 & 1 & 0 \end{pmatrix} " * 6,
}
STUCK = {
    "a sentence": ("Let me add. " + "Wait, let me check that again. " * 40, "loop"),
    "a paragraph": (
        "So it is 24. But wait, did I misread? Four apples, six pears, product 24. Again. " * 15,
        "loop",
    ),
    "and got out of it": ("Let me think. " + "Hmm, no, that is wrong. " * 50 + "So it is seven.", "loop"),
    "without blanks": ("ha" * 3000, "loop"),
    "marks at the end": (" ".join(SENTENCE.format(n=n) for n in range(30)) + "!" * 400, "loop"),
    "digits at the end": ("The quotient is 0." + "3" * 3000, "loop"),
    "two words at the end": (" ".join(SENTENCE.format(n=n) for n in range(30)) + "So seven. " * 45, "loop"),
    "the same figures": ("1234567890" * 400, "compressible"),
    "in Chinese": ("所以我们需要再检查一遍。" * 40, "loop"),
    "counting its rounds": (
        "".join(
            f"Step {k}: let me read the problem again and check whether the sum is right. "
            for k in range(120)
        ),
        "compressible",
    ),
    "saying all of it three times": (" ".join(SENTENCE.format(n=n) for n in range(20)) * 3, "repeats"),
    "only figures": ("0 1 " * 1000, "loop"),
}


def verdict(rule, **changes):
    (found,) = apply_rules(a_trace(**changes), {rule: {}}).verdicts
    return found


@pytest.mark.parametrize("name", BY_RIGHT)
def test_legitimate_repetition_passes(name):
    assert verdict("no_repetition", reasoning=BY_RIGHT[name]).reason == ""
    assert verdict("paragraphs", reasoning=BY_RIGHT[name]).reason == ""


@pytest.mark.parametrize("name", STUCK)
def test_a_model_that_is_stuck_fails(name):
    text, reason = STUCK[name]
    assert verdict("no_repetition", reasoning=text).reason == reason
    assert verdict("no_repetition", response=text).reason == reason


def test_the_length_and_period_of_a_loop_are_found():
    words = [f"w{i}" for i in range(50)] + ["a", "b", "c"] * 30 + [f"v{i}" for i in range(50)]
    _, loop, last = find_repeats(words)
    assert (loop.words, loop.period) == (90, 3)
    assert words[loop.end - 3 : loop.end] == ["a", "b", "c"]
    assert last.words == 0
    _, loop, last = find_repeats([*words, *["x", "y"] * 20])
    assert (loop.words, last.words, last.period, last.end) == (90, 40, 2, len(words) + 40)
    assert find_repeats(["a"] * RUN).longest.words == 0


def test_a_stutter_is_found_at_any_position():
    words = " ".join(f"w{i}" for i in range(300))
    for unit, before in itertools.product(("!", "ha", "\\n", "abcdefgh", "= "), range(0, 300, 17)):
        stutter = unit * ((MIN_STUTTER + 8) // len(unit) + 1)
        found = find_stutter(words[:before] + "\x00" + stutter + "\x00" + words)
        assert found in stutter
        assert len(found) > len(stutter) - len(unit)
        short = unit * ((MIN_STUTTER - STEP - len(unit)) // len(unit))
        assert find_stutter(words[:before] + "\x00" + short + "\x00" + words) == ""


def test_a_paragraph_is_measured_in_words_not_numbers_or_lines():
    words = "word " * 401
    assert verdict("paragraphs", reasoning=words).reason == "long_paragraph"
    assert verdict("paragraphs", reasoning="Short.\n\n" + words).reason == "long_paragraph"
    assert verdict("paragraphs", reasoning="word " * 400).reason == ""
    assert verdict("paragraphs", reasoning=("word " * 200 + "\n") * 5).reason == ""
    assert verdict("paragraphs", reasoning="1234 " * 1000).reason == ""
    assert verdict("paragraphs", reasoning="所" * 401).reason == "long_paragraph"
    wrapped = "\n".join(["so this line of one long paragraph was broken to the width of a page"] * 40)
    assert verdict("paragraphs", reasoning=wrapped).reason == "long_paragraph"
    text = " ".join(SENTENCE.format(n=n) for n in range(25))
    for width in (60, 79, 200):
        assert verdict("paragraphs", reasoning=textwrap.fill(text, width)).reason == "long_paragraph"
    assert verdict("paragraphs", reasoning=text.replace(". ", ".\n")).reason == ""
    listed = "\n".join(
        f"- an item of a list that is as wide as a page and has words enough {n}" for n in range(40)
    )
    assert verdict("paragraphs", reasoning=listed).reason == ""


HOSTILE = {
    "one letter": "a" * 250_000,
    "keywords": "answer " * 35_000,
    "the given": "the given answer choices " * 10_000,
    "sorry": "sorry, " * 35_000,
    "opened formulas": r"\( \[ $" * 35_000,
    "backquotes": "`" * 250_000,
    "fences": "```\n" * 62_500,
    "boxes": r"\boxed{" * 35_000,
    "closed boxes": "".join(rf"\boxed{{{i}}}" for i in range(20_000)),
    "brackets": "(" * 250_000,
    "Han": "的(" * 125_000,
    "quotes and Han": "“的 " * 75_000,
    "line ends": "\n" * 250_000,
    "blanks": " " * 250_000,
    "wrapped lines": ("a" * 60 + "\n") * 4_000,
    "dashes": "- " * 125_000,
    "no characters": "\x00\ud800\ufffe" * 75_000,
    "digits": "1" * 250_000,
    "dots": "1.1," * 62_500,
    "short stutters": ("a" * 190 + "b") * 1_300,
    "apostrophes and Han": "'的'" * 80_000,
    "indented fences": ("\t" * 80 + "```\n") * 3_000,
    "greek": "αβ\\frac{" * 30_000,
    "as an AI": "I can't give " * 20_000,
}

# Runs in a process with a limit of CPU time, several times what it needs.
PROBE = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
from filters.table import FILTERS
from tests.unit.filters.test_table import a_trace
from tests.unit.filters.rules.test_long_traces import HOSTILE
for name in sorted(set(FILTERS) - {"correct", "columns"}):
    for text in HOSTILE.values():
        print(name, ascii(text[:20]), flush=True)
        FILTERS[name].function(a_trace().model_copy(update={"reasoning": text, "response": text}))
"""


def test_hostile_text_takes_linear_time():
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


def test_random_unicode_text_breaks_no_rule():
    chance = random.Random(3)
    for _ in range(200):
        text = "".join(
            chr(chance.choice([chance.randrange(0x20, 0x7F), chance.randrange(0x11000)])) for _ in range(300)
        )
        for name in set(FILTERS) - {"correct", "consistency", "final_answer", "columns"}:
            assert verdict(name, question=text[:50], reasoning=text, response=text[::-1]).reason != "raised"
