import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.mix import ChatMix
from pipeline.errors import UserError
from pipeline.select.chat_data import check, dialogue_id, read


def mix(path: Path | str, **settings: Any) -> ChatMix:
    return ChatMix.model_validate({"kind": "chat", "path": str(path), "name": "talk", "count": 1} | settings)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*contents: Any, role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    return [{role: ("user", "assistant")[n % 2], content: text} for n, text in enumerate(contents)]


def test_both_usual_forms_of_dialogues_are_read(tmp_path: Path) -> None:
    shared = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}]
    shared += [{"from": "gpt", "value": "Hello"}]
    parts = turns([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "c")
    path = write(
        tmp_path / "a.jsonl", {"chat": turns("Hi", "Hello", "Bye", "Bye")}, {"chat": shared}, {"chat": parts}
    )
    rows = list(read(mix(path, messages="chat")))
    assert [[m.role for m in row] for row in rows if not isinstance(row, str)] == [
        ["user", "assistant", "user", "assistant"],
        ["system", "user", "assistant"],
        ["user", "assistant"],
    ]
    assert rows[2][0].content == "a\nb"  # type: ignore[union-attr]


def test_a_table_of_both_forms_has_nulls_in_every_turn(tmp_path: Path) -> None:
    nulls = dict.fromkeys(("role", "content", "from", "value", "tool_calls"))
    given = [nulls | {"from": "human", "value": "Hi"}, nulls | {"role": "assistant", "content": "Hello"}]
    (found,) = read(mix(write(tmp_path / "a.jsonl", {"messages": given})))
    assert [(m.role, m.content) for m in found] == [("user", "Hi"), ("assistant", "Hello")]  # type: ignore[union-attr]


def test_an_answer_that_calls_a_tool_is_none_to_learn(tmp_path: Path) -> None:
    question, answer = turns("Weather in Rome?", "Let me look that up.")
    answer["tool_calls"] = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    assert list(read(mix(write(tmp_path / "a.jsonl", {"messages": [question, answer]})))) == ["tool_calls"]


def test_question_and_answer_may_be_two_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "Hi", "a": "Hello"}, {"q": "Hi", "a": 3}, {"q": "Hi", "a": " "})
    first, *rest = read(mix(path, question="q", response="a"))
    assert [m.content for m in first] == ["Hi", "Hello"]  # type: ignore[union-attr]
    assert rest == ["not_text", "empty_message"]


def test_a_row_that_is_no_dialogue_has_a_reason(tmp_path: Path) -> None:
    bad: list[Any] = [
        [],
        "Hi",
        turns("Hi"),
        turns("Hi", "Hello", "Bye"),
        turns("Hi", "\ud800"),
        turns("Hi", "a\0b"),
    ]
    bad += [
        [{"role": "tool", "content": "x"}],
        turns("Hi", None),
        ["Hi"],
        [{"role": "system", "content": "x"}],
    ]
    path = write(tmp_path / "a.jsonl", *({"messages": each} for each in bad))
    with path.open("a") as file:
        file.write("{broken\n")
    assert list(read(mix(path))) == [
        *("no_messages", "no_messages", "order_of_roles", "order_of_roles", "not_text", "not_text"),
        *("other_role", "not_text", "no_messages", "order_of_roles", "unreadable"),
    ]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Hi"})
    with pytest.raises(
        UserError, match=r"select.mix 'talk': .*a.jsonl has no column 'messages'; there are text"
    ):
        check(mix(path))
    with pytest.raises(UserError, match="no such file"):
        check(mix(tmp_path / "none.jsonl"))


def test_equal_dialogues_have_equal_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"messages": turns("Hi", text)} for text in ("a", "a", "b")))
    ids = [dialogue_id(row) for row in read(mix(path)) if not isinstance(row, str)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"question": "q"}, "set together"),
        ({"messages": "m", "question": "q", "response": "r"}, "either messages"),
        ({"share": 0.5}, "either share or count"),
        ({"subset": "x"}, 'need source = "dataset"'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        mix("x.jsonl", **settings)
