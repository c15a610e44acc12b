"""Reads the dialogues of [[select.mix]] with kind = "chat": each becomes messages, or a reason why not.

The rows are untrusted: their text is checked and stored, never evaluated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pipeline.config.mix import ChatMix
from pipeline.config.sources import DatasetSource
from pipeline.errors import UserError
from pipeline.ingest import files, hub
from pipeline.ingest.composed import UnusableRow, checked_text
from pipeline.ingest.files import BadRow, Record
from pipeline.rows import Message, Role

ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
}
Dialogue = tuple[Message, ...]


class NoDialogue(Exception):
    """A row is no dialogue to learn from; the message is a short code."""


def check(mix: ChatMix) -> None:
    """Raises UserError if the data cannot be read or lacks a column."""
    heads = [(mix.path, hub.head(_dataset(mix)))] if mix.source == "dataset" else []
    if mix.source == "file":
        heads = [(str(path), files.head(path)) for path in files.find(mix.path)]
    for where, rows in heads:
        seen = {name: None for row in rows if isinstance(row, Record) for name in row.values}
        if missing := next((column for column in mix.columns if column not in seen), None):
            raise UserError(f"select.mix {mix.name!r}: {where} has no column {missing!r}; {_columns(seen)}")


def _columns(seen: dict[str, None]) -> str:
    return f"there are {', '.join(seen)[:500]}" if seen else "it has no rows"


def fingerprint(mix: ChatMix) -> dict[str, Any]:
    """Returns the identity of the rows."""
    if mix.source == "dataset":
        return hub.fingerprint(_dataset(mix))
    return {"files": {str(path): files.sha256(path) for path in files.find(mix.path)}}


def read(mix: ChatMix) -> Iterator[Dialogue | str]:
    """Yields each row as a dialogue, or the code of the reason why it is none."""
    for row in islice(_records(mix), mix.limit):
        try:
            yield "unreadable" if isinstance(row, BadRow) else dialogue(row.values, mix)
        except NoDialogue as e:
            yield str(e)


def dialogue(row: dict[str, Any], mix: ChatMix) -> Dialogue:
    """Returns the messages of a row. Raises NoDialogue unless they end with an answer to a user."""
    values = [row.get(column) for column in mix.columns]
    if len(values) == 2:
        return _message("user", values[0]), _message("assistant", values[1])
    (turns,) = values
    if not isinstance(turns, list) or not turns:
        raise NoDialogue("no_messages")
    messages = tuple(map(_turn, turns))
    _check_order(messages)
    return messages


def dialogue_id(messages: Dialogue) -> str:
    """Returns a hash of the text, by which equal dialogues are found."""
    text = json.dumps([[m.role, m.content] for m in messages])
    return "chat-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _records(mix: ChatMix) -> Iterator[Record | BadRow]:
    if mix.source == "dataset":
        return hub.records(_dataset(mix), mix.columns)
    return (row for path in files.find(mix.path) for row in files.records(path, mix.columns))


def _dataset(mix: ChatMix) -> DatasetSource:
    given = {"path": mix.path, "subset": mix.subset, "dataset_split": mix.dataset_split}
    columns = {"question": mix.columns[0], "reference": None}
    return DatasetSource.model_validate({"kind": "dataset", "revision": mix.revision, **given, **columns})


def _turn(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise NoDialogue("no_messages")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise NoDialogue("tool_calls")
    # Tables of both forms have all four names in every turn, two of them null
    role, content = (
        turn[a] if turn.get(a) is not None else turn.get(b)
        for a, b in (("role", "from"), ("content", "value"))
    )
    if (known := ROLES.get(str(role))) is None:
        raise NoDialogue("other_role")
    return _message(known, content)


def _message(role: Role, content: Any) -> Message:
    if isinstance(content, list):  # OpenAI's parts
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str) or isinstance(content, files.Number):
        raise NoDialogue("not_text")
    if not content.strip():
        raise NoDialogue("empty_message")
    try:
        return Message(role=role, content=checked_text("a message", content))
    except UnusableRow:
        raise NoDialogue("not_text") from None


def _check_order(messages: Dialogue) -> None:
    """Raises NoDialogue unless user and assistant alternate after an optional system message."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise NoDialogue("order_of_roles")
