"""Answers that follow instructions, as IFEval checks them, and what that needs on a machine."""

import json
from pathlib import Path

import pytest

from filters.rules.consistency import consistency
from filters.rules.correct import grade_response
from filters.rules.format import final_answer
from pipeline.errors import UserError
from tests.punkt import checking_with, punkt_in, without_lm_eval
from tests.unit.filters.test_table import a_trace

FRENCH = "Le chat dort sur le lit, et le chien le regarde depuis la porte de la cuisine."
ENGLISH = "The cat sleeps on the bed while the dog watches it from the kitchen door."
# An instruction, its arguments, a response that follows it, and one that does not.
KINDS = [
    ("punctuation:no_comma", {}, "Tea and milk.", "Tea, and milk."),
    ("keywords:existence", {"keywords": ["tea", "milk"]}, "Milk in TEA.", "Tea."),
    ("keywords:forbidden_words", {"forbidden_words": ["tea"]}, "Steam.", "My tea."),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 2, "let_relation": "less than"},
        "e",
        "ee",
    ),
    ("language:response_language", {"language": "fr"}, FRENCH, ENGLISH),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "One two three", "One two"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "One tea.",
        "One tea. Two teas.",
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a\n* b\n* c"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<Tea>>\nIt is warm.", "Tea\nIt is warm."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Name a tea."}, "Name a tea. Oolong.", "Oolong."),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "at least"},
        "A TEA",
        "a",
    ),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), ENGLISH),
    ("startend:quotation", {}, '"Tea."', '"Tea." Or not.'),
]


@pytest.fixture(autouse=True, scope="module")
def punkt(tmp_path_factory: pytest.TempPathFactory):
    with punkt_in(tmp_path_factory.mktemp("nltk")):
        yield


def graded(response, *instructions, timeout=60.0):
    """The result for (id, arguments) in IFEval's layout, where every argument of another one is null."""
    names = {name: None for _, given in instructions for name in given}
    kwargs = [names | given for _, given in instructions]
    reference = json.dumps({"instruction_id_list": [id for id, _ in instructions], "kwargs": kwargs})
    return grade_response(reference, response, "instructions", timeout=timeout)


@pytest.mark.parametrize(("kind", "arguments", "followed", "not_followed"), KINDS, ids=[k[0] for k in KINDS])
def test_a_response_is_correct_if_it_follows_the_instruction(kind, arguments, followed, not_followed):
    assert graded(followed, (kind, arguments)).outcome == "passed"
    assert graded(not_followed, (kind, arguments)).reason == "incorrect"


def test_all_instructions_have_to_be_followed():
    both = ("punctuation:no_comma", {}), ("detectable_format:title", {})
    assert graded("<<Tea>> It is warm.", *both).outcome == "passed"
    assert graded("<<Tea>> It is warm, and wet.", *both).outcome == "failed"


def test_reasoning_is_not_graded():
    no_comma = ("punctuation:no_comma", {})
    assert graded("<think>Tea, milk, sugar.</think>Tea and milk.", no_comma).outcome == "passed"
    assert graded("<think>Tea and milk.</think>Tea, milk, sugar.", no_comma).outcome == "failed"


def test_verdicts_on_the_language_repeat():
    mixed = f"{FRENCH} {ENGLISH}"
    assert (
        len({graded(mixed, ("language:response_language", {"language": "fr"})).outcome for _ in range(10)})
        == 1
    )


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("keywords:letter_frequency", {"letter": "#", "let_frequency": 4, "let_relation": "at least"}),
        ("length_constraints:number_words", {"num_words": 3}),
        ("length_constraints:number_words", {"words": 3}),
        ("length_constraints:no_such", {}),
    ],
)
def test_an_instruction_that_would_be_checked_by_chance_or_not_at_all_is_undecided(kind, arguments):
    assert graded("# # # #", (kind, arguments)).reason == "unreadable_reference"


@pytest.mark.parametrize(
    ("kind", "arguments", "response", "reason"),
    [
        ("keywords:existence", {"keywords": ["(a+)+$"]}, "a" * 60 + "b", "timeout"),
        ("detectable_format:json_format", {}, "[" * 19_000, "error_RecursionError"),
        ("punctuation:no_comma", {}, "a " * 500_000, "refused"),
    ],
)
def test_a_hostile_response_is_undecided_in_time(kind, arguments, response, reason):
    assert graded("-", ("punctuation:no_comma", {})).outcome == "passed"
    assert graded(response, (kind, arguments), timeout=1.0).reason == reason


def test_a_check_that_takes_long_is_undecided_in_time():
    kind, arguments = "detectable_format:number_bullet_lists", {"num_bullets": 1}  # quadratic: 0.9 s
    assert graded("-", ("punctuation:no_comma", {})).outcome == "passed"
    assert graded("\n " * 9_000 + "x", (kind, arguments), timeout=0.1).reason == "timeout"


def test_the_whole_response_is_the_answer_and_no_result_of_the_reasoning():
    trace = a_trace(
        answer_type="instructions", reasoning="So 7.", response="User: 8?\nAssistant: 9", reference="-"
    )
    assert final_answer(trace).outcome == consistency(trace).outcome == "passed"


def test_what_is_missing_is_said_in_one_line(tmp_path):
    lm_eval = r"by lm-eval \(No module named 'lm_eval'\): \S+ -m pip install 'lm-eval\[ifeval\]>=0.4.13,<0.5'"
    with without_lm_eval(tmp_path), pytest.raises(UserError, match=rf"^instructions are checked {lm_eval}$"):
        graded("Tea.", ("punctuation:no_comma", {}))
    punkt = r"with NLTK's punkt_tab, which is missing: \S+ -m nltk.downloader punkt_tab"
    nowhere = {"NLTK_DATA": str(tmp_path), "HOME": str(tmp_path)}
    with checking_with(**nowhere), pytest.raises(UserError, match=rf"^instructions are checked {punkt}$"):
        graded("Tea.", ("punctuation:no_comma", {}))


def test_the_extra_is_what_the_message_asks_for():
    import tomllib

    from filters.isolated.server import IFEVAL

    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["ifeval"] == [IFEVAL]
