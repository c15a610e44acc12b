"""The extraction of the final answer on golden cases and on hostile text."""

import json
from pathlib import Path

import pytest

from filters.extract.answer import extract

CASES = [json.loads(line) for line in Path("tests/cases/extract.jsonl").read_text("utf-8").splitlines()]
SIZE = 1_000_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["response"][:40] or "empty")
def test_the_final_answer_is_found_with_its_form(case):
    answer = extract(case["response"])
    assert (answer and answer.text, answer and answer.how) == (case["text"], case["how"])


UNITS = r"""( [ { } $ \ \boxed{ \boxed{} \fbox \( <answer> </answer> answer: #### 1, 1/ -1. 9 A: is** $1"""


@pytest.mark.parametrize(
    "unit", [*UNITS.split(), " ", "\n", "answer is ", "answer of ", r"\boxed ", "$5 and "]
)
def test_a_million_characters_are_read_in_linear_time(unit):
    extract(unit * (SIZE // len(unit)))  # quadratic time would be noticed


@pytest.mark.parametrize(
    "response",
    ["คำตอบคือ 18", "คำตอบ: 18", "উত্তর হল 18", "উত্তর: 18", "సమాధానం: 18", "Jibu ni 18.", "Jibu: 18"],
)
def test_the_languages_of_mgsm_announce_an_answer(response):
    answer = extract(f"9 + 9 = 18 na 3 pia ni namba ya mayai.\n{response}")
    assert (answer and answer.text, answer and answer.how) == ("18", "phrase")
