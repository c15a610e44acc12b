"""Rows of given traces: formats of reasoning, conversations, lists of responses, and refused rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.ingest import TracesSource
from pipeline.config.load import parse_recipe
from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.files import BadRow
from pipeline.ingest.traces import GivenRow, GivenSample, read


def source(path: Path, **settings: Any) -> TracesSource:
    table = {"kind": "traces", "path": str(path), "teacher": "t", "reference": "", **settings}
    if settings.get("teacher_column"):
        del table["teacher"]
    return TracesSource.model_validate(table)


def rows(folder: Path, *given: dict[str, Any], **settings: Any) -> list[GivenRow | BadRow]:
    path = folder / "given.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return list(read(source(path, **settings), held_out=0, seed=0))


def sample(folder: Path, row: dict[str, Any], **settings: Any) -> GivenSample:
    """The only sample of a row."""
    (found,) = rows(folder, {"question": "Why?", **row}, **settings)
    assert isinstance(found, GivenRow), found
    (only,) = found.samples
    assert isinstance(only, GivenSample), only
    return only


def why(folder: Path, row: dict[str, Any], **settings: Any) -> str:
    """Why a row, or its only sample, is refused."""
    (found,) = rows(folder, {"question": "Why?", **row}, **settings)
    if isinstance(found, GivenRow):
        (found,) = found.samples  # type: ignore[assignment]
    assert isinstance(found, BadRow), found
    return found.why


def test_rows_of_one_question_keep_their_own_columns(tmp_path: Path) -> None:
    given = [{"question": "Why?", "response": f"so {n}", "label": n} for n in range(2)]
    found = [row.samples[0] for row in rows(tmp_path, *given) if isinstance(row, GivenRow)]
    assert [s.columns for s in found if isinstance(s, GivenSample)] == ['{"label":0}', '{"label":1}']


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("<think>\nso\n</think>\n\n42", "think"),
        ("so</think>42", "think"),
        ("<THINK>so</THINK>42", "think"),
        ("<thinking>so</thinking>42", "thinking"),
        ("<thought>so</thought>42", "thought"),
        ("<reasoning>so</reasoning>42", "reasoning"),
        ("[THINK]so[/THINK]42</s>", "magistral"),
        (
            "<|begin_of_thought|>\n\nso\n\n<|end_of_thought|>\n\n"
            "<|begin_of_solution|>\n\n42\n\n<|end_of_solution|>",
            "open_thoughts",
        ),
        (
            "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
            "harmony",
        ),
        (
            "<|start|>assistant<|channel|>analysis<|message|>so<|end|>"
            "<|start|>assistant<|channel|>final<|message|>42<|return|>",
            "harmony",
        ),
    ],
)
def test_every_format_of_reasoning_is_read_by_its_name_and_by_itself(
    tmp_path: Path, text: str, format: str
) -> None:
    for chosen in ("auto", format):
        found = sample(tmp_path, {"response": text}, reasoning_format=chosen)
        assert (found.reasoning, found.response, found.finish_reason) == ("so", "42", "stop")
    verbatim = sample(tmp_path, {"response": text}, reasoning_format="none")
    assert (verbatim.reasoning, verbatim.response) == (None, text)


def test_a_format_leaves_the_marks_of_others_in_the_text(tmp_path: Path) -> None:
    found = sample(tmp_path, {"response": "[THINK]so[/THINK]42"}, reasoning_format="think")
    assert (found.reasoning, found.response) == (None, "[THINK]so[/THINK]42")


def test_marks_of_the_recipe_split_a_text(tmp_path: Path) -> None:
    marks = {"begin": "{plan}", "end": "{/plan}", "answer_begin": "<a>", "answer_end": "</a>"}
    found = sample(tmp_path, {"response": "{plan}so{/plan} <a>42</a>"}, reasoning_marks=marks)
    assert (found.reasoning, found.response) == ("so", "42")


def test_reasoning_may_have_a_column_of_its_own(tmp_path: Path) -> None:
    row = {"response": "42", "cot": "<think>so</think>", "n": 12, "end": "eos"}
    found = sample(tmp_path, row, reasoning="cot", tokens="n", finish_reason="end")
    assert (found.reasoning, found.response) == ("so", "42")
    assert (found.completion_tokens, found.finish_reason) == (12, "stop")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"response": "<think>so</think>42"}, "stop"),
        ({"response": "42"}, "stop"),
        ({"response": "<think>so"}, "length"),
        ({"response": "42", "end": None}, "stop"),
        ({"response": "42", "end": ""}, "stop"),
        ({"response": "42", "end": True}, "stop"),
        ({"response": "42", "end": False}, "length"),
        ({"response": "42", "end": "max_tokens"}, "length"),
        ({"response": "42", "end": "content_filter"}, "content_filter"),
    ],
)
def test_how_a_response_ended_is_told_by_its_column_or_by_its_reasoning(
    tmp_path: Path, row: dict[str, Any], expected: str
) -> None:
    column = "end" if "end" in row else None
    assert sample(tmp_path, row, finish_reason=column).finish_reason == expected


def test_the_last_question_of_a_conversation_and_the_answer_to_it_are_taken(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "42", "thinking": "so"},
    ]
    sharegpt = [{"from": {"user": "human", "assistant": "gpt"}.get(t["role"], "system")} for t in turns]
    for turn, old in zip(sharegpt, turns, strict=True):
        turn["value"] = old["content"]
    (found, other) = rows(tmp_path, {"chat": turns}, {"chat": sharegpt}, messages="chat")
    assert isinstance(found, GivenRow)
    assert isinstance(other, GivenRow)
    assert found.problem.question == other.problem.question == "Why?"
    (first,), (second,) = found.samples, other.samples
    assert isinstance(first, GivenSample)
    assert isinstance(second, GivenSample)
    assert (first.reasoning, first.response, second.response) == ("so", "42", "42")


def test_the_parts_of_a_turn_are_one_text_and_its_reasoning(tmp_path: Path) -> None:
    said = [
        {"type": "thinking", "thinking": "so"},
        {"type": "text", "text": "4"},
        {"type": "text", "text": "2"},
    ]
    asked = [{"type": "text", "text": "Why?"}]
    for question, parts, expected in (("Why?", said, "so"), (asked, said, "so"), (asked, said[1:], None)):
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": parts}]
        (found,) = rows(tmp_path, {"chat": chat}, messages="chat")
        assert isinstance(found, GivenRow), found
        assert found.problem.question == "Why?"
        (only,) = found.samples
        assert isinstance(only, GivenSample), only
        assert (only.reasoning, only.response) == (expected, "42")
    image = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": [{"type": "image_url"}]}]
    assert why(tmp_path, {"chat": image}, messages="chat") == "the response has a part that is not text"


def test_the_parts_of_a_response_are_one_sample(tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "42"}]
    one = sample(tmp_path, {"response": parts})
    assert (one.reasoning, one.response) == ("so", "42")
    own = sample(tmp_path, {"response": parts, "cot": "why"}, reasoning="cot")
    assert (own.reasoning, own.response) == ("why", "42")
    (found,) = rows(tmp_path, {"question": "Why?", "response": [parts, "43"]})
    assert isinstance(found, GivenRow)
    samples = [(each.reasoning, each.response) for each in found.samples if isinstance(each, GivenSample)]
    assert samples == [("so", "42"), (None, "43")]


def test_a_column_may_hold_the_question_of_a_conversation(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Solve: why?"}, {"role": "assistant", "content": "42"}]
    (found,) = rows(tmp_path, {"problem": "Why?", "chat": chat}, messages="chat", question="problem")
    assert isinstance(found, GivenRow)
    assert found.problem.question == "Why?"


def test_true_and_false_may_be_written_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    complete = [1, 0, None]
    columns = {"question": ["a", "b", "c"], "response": ["1"] * 3, "complete": pa.array(complete, pa.int8())}
    pq.write_table(pa.table(columns), path)
    found = list(read(source(path, finish_reason="complete"), held_out=0, seed=0))
    for number in (1, 0.0, "0"):
        found += rows(
            tmp_path, {"question": "d", "response": "1", "complete": number}, finish_reason="complete"
        )
    samples = [s for row in found if isinstance(row, GivenRow) for s in row.samples]
    ends = [s.finish_reason for s in samples if isinstance(s, GivenSample)]
    assert ends == ["stop", "length", "stop", "stop", "length", "length"]


def test_counts_and_generations_may_be_written_as_fractions(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    columns = {"question": ["a", "b"], "response": ["1"] * 2, "n": [812.0, None], "g": [1.0, None]}
    pq.write_table(pa.table(columns), path)
    found = list(read(source(path, tokens="n", generation_column="g"), held_out=0, seed=0))
    for number in (812, 812.0, "812.0"):
        row = {"question": "c", "response": "1", "n": number, "g": 1.0}
        found += rows(tmp_path, row, tokens="n", generation_column="g")
    samples = [s for row in found if isinstance(row, GivenRow) for s in row.samples]
    read_as = [(s.completion_tokens, s.teacher_generation) for s in samples if isinstance(s, GivenSample)]
    assert read_as == [(812, "1"), (None, None), *[(812, "1")] * 3]


def test_the_generation_is_read_by_itself_whichever_columns_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    pq.write_table(pa.table({"question": ["a"], "response": ["1"], "teacher_generation": ["2+"]}), path)
    for columns in ("all", ()):
        (found,) = read(source(path, columns=columns), held_out=0, seed=0)
        assert isinstance(found, GivenRow)
        assert [s.teacher_generation for s in found.samples if isinstance(s, GivenSample)] == ["2+"]


def test_the_reasoning_of_a_turn_is_no_column_of_its_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "thinking": "so"}]
    for settings in ({}, {"reasoning": "cot"}):
        (found,) = rows(tmp_path, {"chat": turns, "cot": "why", "n": 1}, messages="chat", **settings)
        assert isinstance(found, GivenRow)
        assert found.problem.columns == ('{"n":1}' if settings else '{"cot":"why","n":1}')


def test_lists_are_unrolled_and_a_bad_item_costs_one_sample(tmp_path: Path) -> None:
    row = {"question": "Why?", "all": ["1", "2", None, "4"], "by": ["a", "b", "c", "d"], "ok": [True, False]}
    (found,) = rows(tmp_path, row, response="all", teacher_column="by", finish_reason="ok")
    assert isinstance(found, GivenRow)
    first, second, third, fourth = found.samples
    assert isinstance(first, GivenSample)
    assert isinstance(second, GivenSample)
    assert (first.teacher, first.finish_reason) == ("a", "stop")
    assert (second.teacher, second.finish_reason) == ("b", "length")
    assert isinstance(third, BadRow)
    assert isinstance(fourth, BadRow)
    assert third.origin.endswith("given.jsonl:1 sample 3")
    assert fourth.why == "ok has 2 items, fewer than there are responses"


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        ({"response": None}, {}, "no response"),
        ({"response": " "}, {}, "no response"),
        ({"response": []}, {}, "no response"),
        ({"response": 5}, {}, "the response is a number, not a text"),
        ({"response": {"a": 1}}, {}, "the response is an object, not a text"),
        ({"response": "a\0b"}, {}, "the response has a NUL character in it"),
        ({"response": "a", "by": " "}, {"teacher_column": "by"}, "no teacher"),
        ({"response": "a", "id": None}, {"trace_id": "id"}, "no id of the trace"),
        ({"chat": "a"}, {"messages": "chat"}, "the conversation is str, not a list"),
        (
            {"chat": [{"role": "assistant", "content": "a"}]},
            {"messages": "chat"},
            "the conversation has no user",
        ),
        (
            {"chat": [{"role": "user", "content": "a"}]},
            {"messages": "chat"},
            "no assistant turn after the user's",
        ),
        ({"chat": [1, None]}, {"messages": "chat"}, "the conversation has no user turn"),
        (
            {
                "chat": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "1"}]},
                    {"role": "tool", "content": "2"},
                    {"role": "assistant", "content": "It is 2."},
                ]
            },
            {"messages": "chat"},
            "the answer calls a tool",
        ),
    ],
)
def test_a_row_that_is_no_trace_is_reported(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], expected: str
) -> None:
    assert expected in why(tmp_path, row, **settings)


def test_an_id_tells_equal_traces_apart_and_never_makes_others_one(tmp_path: Path) -> None:
    def key(by: str = "a", response: str = "42", id: str = "p-0-0000") -> str:
        row = {"by": by, "response": response, "id": id}
        return sample(tmp_path, row, teacher_column="by", trace_id="id").key

    assert key() == key()
    # Each run that retort published numbers its teachers and samples from 0
    assert len({key(), key(by="b"), key(response="43"), key(id="p-0-0001")}) == 4


def test_a_missing_column_is_an_error_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    path.write_text('{"question": "Why?", "output": "42"}\n')
    with pytest.raises(UserError, match=r"no column 'response'; there are question, output"):
        sources.check(source(path))
    sources.check(source(path, response="output"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "set either teacher, the name of a model, or teacher_column"),
        ({"teacher": "a", "teacher_column": "b"}, "set either teacher"),
        ({"teacher": "a", "messages": "c", "response": "d"}, "set either messages or response"),
        ({"teacher": "a", "revision": "main"}, 'need reader = "datasets"'),
        (
            {"teacher": "a", "reasoning_format": "think", "reasoning_marks": {"begin": "a", "end": "b"}},
            "set either reasoning_format or reasoning_marks",
        ),
        ({"teacher": "a", "reasoning_marks": {"begin": "", "end": "b"}}, "sources.0.reasoning_marks.begin"),
    ],
)
def test_settings_that_do_not_agree_are_named(settings: dict[str, Any], expected: str) -> None:
    data = {"run": "test", "ingest": {"sources": [{"kind": "traces", "path": "p", **settings}]}}
    with pytest.raises(UserError) as error:
        parse_recipe(data, (), "recipe")
    assert expected in str(error.value)


def test_a_data_set_is_read_by_the_datasets_library(tmp_path: Path) -> None:
    from datasets import Dataset

    chat = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "<think>so</think>42"}]
    Dataset.from_list([{"conversations": chat, "answer": "42"}]).save_to_disk(tmp_path / "data")
    settings = {"reader": "datasets", "messages": "conversations", "reference": "answer"}
    given = source(tmp_path / "data", **settings)
    sources.check(given)
    assert "sha256" in sources.fingerprint(given)
    (found,) = read(given, held_out=0, seed=0)
    assert isinstance(found, GivenRow)
    assert (found.problem.reference, found.problem.origin) == ("42", f"{tmp_path}/data train row 1")
    assert [s.response for s in found.samples if isinstance(s, GivenSample)] == ["42"]
