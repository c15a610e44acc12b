"""Questions put together from several columns, and multiple-choice questions with lettered options."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.config.sources import FileSource
from pipeline.filter.apply import questions_only
from pipeline.ingest.files import BadRow
from pipeline.ingest.sources import check, read
from pipeline.rows import Problem

GPQA = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
OPTIONS = ["red", "green", "blue", "I am not sure"]


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(source: FileSource) -> list[Problem]:
    found = list(read(source, held_out=0, seed=0))
    assert all(isinstance(row, Problem) for row in found), found
    return [row for row in found if isinstance(row, Problem)]


def bad(source: FileSource) -> list[str]:
    return [row.why for row in read(source, held_out=0, seed=0) if isinstance(row, BadRow)]


def gpqa(folder: Path, count: int = 40, **settings: Any) -> FileSource:
    """A CSV file with GPQA's columns."""
    path = folder / "gpqa_diamond.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Question", *GPQA, "Explanation", "Subdomain"])
        table.writerows([f"What is {n}?", n, n + 1, n + 2, n + 3, "So it is.", "Sums"] for n in range(count))
    given = {
        "question": "Question",
        "choices": GPQA,
        "reference": GPQA[0],
        "answer_type": "choice",
        "shuffle_choices": True,
        "columns": ("Subdomain",),
    }
    return FileSource(kind="file", path=str(path), **(given | settings))


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_option_that_is_no_text_costs_its_row_alone(tmp_path: Path, shuffle: bool) -> None:
    given = [
        {"question": "Why?", "options": [option, "b"], "answer": "A"} for option in ("\ud800", "\0", "a")
    ]
    path = write(tmp_path / "p.jsonl", *given)
    source = FileSource(
        kind="file", path=path, answer_type="choice", choices="options", shuffle_choices=shuffle
    )
    found = [row.why if isinstance(row, BadRow) else row.reference for row in read(source, 0, 0)]
    assert found[:2] == ["a choice is not UTF-8", "a choice has a NUL character in it"]
    assert isinstance(found[2], str)
    assert len(found) == 3


def test_a_missing_number_is_no_option_and_an_index_may_be_written_as_a_fraction(tmp_path: Path) -> None:
    options = {"a": [4.0, 4.0], "b": [7.0, 7.0], "c": [float("nan"), 9.0]}
    table = {"question": ["Which is prime?", "Which is odd?"], **options, "answer": [1.0, None]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    given = {"answer_type": "choice", "choices": ("a", "b", "c"), "reference_is": "index"}
    first, second = rows(FileSource(kind="file", path=str(tmp_path / "p.parquet"), **given))
    assert (first.question, first.reference) == ("Which is prime?\n\nA. 4.0\nB. 7.0", "B")
    assert second.question.endswith("C. 9.0")


def test_the_four_columns_of_gpqa_become_shuffled_options(tmp_path: Path) -> None:
    source = gpqa(tmp_path)
    check(source)
    problems = rows(source)
    letters = Counter(problem.reference for problem in problems)
    assert letters.keys() == set("ABCD")
    for n, problem in enumerate(problems):
        question, empty, *options = problem.question.split("\n")
        assert (question, empty) == (f"What is {n}?", "")
        assert f"{problem.reference}. {n}" in options
        assert {option[3:] for option in options} == {str(n + i) for i in range(4)}
        assert problem.columns == '{"Subdomain":"Sums"}'
    assert rows(source) == problems  # the order is that of the question's hash


def test_the_order_of_options_depends_on_the_question_and_their_texts_alone(tmp_path: Path) -> None:
    before = rows(gpqa(tmp_path))
    turned = (*GPQA[2:], *GPQA[:2])
    assert [p.question for p in rows(gpqa(tmp_path, choices=turned))] == [p.question for p in before]
    kept = rows(gpqa(tmp_path, shuffle_choices=False))
    assert {p.reference for p in kept} == {"A"}


def test_contamination_reads_the_same_question_without_its_answer(tmp_path: Path) -> None:
    source = gpqa(tmp_path)
    without = rows(questions_only(source))  # type: ignore[arg-type]
    assert [p.question for p in without] == [p.question for p in rows(source)]
    assert {p.reference for p in without} == {None}


@pytest.mark.parametrize(
    ("reference_is", "answer"), [("letter", "C"), ("letter", "(c)"), ("index", 2), ("text", "blue")]
)
def test_the_list_of_mmlu_pro_is_lettered_in_its_order(
    tmp_path: Path, reference_is: str, answer: Any
) -> None:
    row = {"question": "Which colour?", "options": OPTIONS, "answer": answer, "category": "art"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "test.parquet")
    for path in (write(tmp_path / "p.jsonl", row), str(tmp_path / "test.parquet")):
        source = FileSource(
            kind="file",
            path=path,
            choices="options",
            answer_type="choice",
            reference_is=reference_is,  # type: ignore[arg-type]
            columns=("category",),
        )
        check(source)
        (problem,) = rows(source)
        expected = "Which colour?\n\nA. red\nB. green\nC. blue\nD. I am not sure"
        assert (problem.question, problem.reference) == (expected, "C")


def test_a_template_puts_columns_around_the_question(tmp_path: Path) -> None:
    row = {"question": "Who? {{ 7*7 }}", "text": "Ada wrote it.", "year": 1843, "answer": "Ada"}
    source = FileSource(
        kind="file",
        path=write(tmp_path / "p.jsonl", row, row | {"text": None}),
        answer_type="text",
        question_template="{{ text }} ({{ year }})\n{{ question }}",
    )
    first, second = read(source, held_out=0, seed=0)
    assert isinstance(first, Problem)
    assert first.question == "Ada wrote it. (1843)\nWho? {{ 7*7 }}"
    assert first.columns == '{"text":"Ada wrote it.","year":1843}'
    assert isinstance(second, BadRow)
    assert second.why == "question_template: 'text' is undefined"
    check(source)
    missing = source.model_copy(update={"question_template": "{{ question }} {{ context }}"})
    with pytest.raises(Exception, match="no column 'context'"):
        check(missing)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"options": ["red"], "answer": "A"}, "1 choices: there must be 2 to 10"),
        ({"options": list("abcdefghijk"), "answer": "A"}, "11 choices"),
        ({"options": OPTIONS, "answer": "E"}, "the answer 'E' is no letter of its 4 choices"),
        ({"options": OPTIONS, "answer": "blue"}, "the answer 'blue' is no letter of its 4 choices"),
        ({"options": "red, green", "answer": "A"}, "the choices in 'options' are not a list"),
        ({"options": [{"a": 1}, "b"], "answer": "A"}, "a choice is not a text or a number"),
        ({"options": ["red", "red", "blue"], "answer": "A"}, "two choices have the text of the correct one"),
        ({"options": ["", "red", "blue"], "answer": "A"}, "the correct choice is empty"),
    ],
)
def test_a_row_whose_options_do_not_hold_the_answer_is_a_bad_row(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    path = write(tmp_path / "p.jsonl", {"question": "Which?"} | row)
    (found,) = bad(FileSource(kind="file", path=path, choices="options", answer_type="choice"))
    assert why in found


def test_empty_options_are_left_out_before_the_others_get_letters(tmp_path: Path) -> None:
    row = {"question": "Which?", "options": ["red", None, "blue"], "answer": "C"}
    path = write(tmp_path / "p.jsonl", row)
    (problem,) = rows(FileSource(kind="file", path=path, choices="options", answer_type="choice"))
    assert (problem.question, problem.reference) == ("Which?\n\nA. red\nB. blue", "B")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"choices": "options"}, 'choices need answer_type = "choice"'),
        ({"shuffle_choices": True}, "need choices"),
        ({"question_template": "{{ context }}"}, r"does not contain \{\{ question \}\}"),
        ({"question_template": "{{ question"}, "not a Jinja template"),
        ({"question_template": "{{ question }} {{ answer }}"}, "'answer' holds the answer"),
        (
            {"question_template": "{{ question }}", "choices": "options", "answer_type": "choice"},
            r"does not contain \{\{ choices \}\}",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        FileSource(kind="file", path="p.jsonl", **settings)
