"""Prompts: text files in this folder or anywhere, loaded, checked and rendered as chat messages.

A file is a list of turns, each under a line with its role in brackets. [system] may come first, pairs of
[user] and [assistant] turns are worked examples, and the last [user] turn asks the question:

    [system]
    Solve the problem.
    [user]
    What is 2 + 3?
    [assistant]
    <think>
    2 + 3 = 5
    </think>

    The answer is 5.
    [user]
    {{ question }}

The fields are Jinja variables: FIELDS, and the columns that the problem's source keeps, as in {{ level }} or
{{ columns["Level of study"] }}. {{ level | default("any") }} fills the gap where a row has none. The
reference is not one of them, so no prompt can leak it; only the LLM judge's prompt has it (JUDGE_FIELDS). To
add a prompt, write prompts/NAME.txt and set it in the recipe.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import shipped
from pipeline.errors import UserError, one_line
from pipeline.rows import Message, Question, Role

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

FOLDER = Path(__file__).parent
FIELDS = ("question", "source")
COLUMNS = "columns"  # the field that has all columns by name
REQUIRED = ("question",)
JUDGE_FIELDS = ("question", "reference", "response")  # all of them required
_ROLE = re.compile(r"^\[(system|user|assistant)\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    name: str
    text: str

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages as they are written, with the fields unfilled."""
        return tuple(_turns(self.text))

    @cached_property
    def columns(self) -> frozenset[str]:
        """The fields that are columns of the problem's source."""
        return frozenset(_variables(self.text)) - set(FIELDS)

    def render(self, question: Question) -> tuple[Message, ...]:
        """Returns the messages that ask the question. Its text is inserted verbatim, never as a template.

        Raises UserError if it lacks a column that the prompt needs.
        """
        if not self.columns:
            return self.fill({name: getattr(question, name) for name in FIELDS})
        messages = self._rendered(question)
        if isinstance(messages, str):
            raise UserError(f"prompt {self.name!r}: {messages}")
        return messages

    def check(self, questions: Iterable[Question]) -> None:
        """Raises UserError if a question lacks a column that the prompt needs."""
        total, faults, where = 0, 0, ""
        for question in questions if self.columns else ():
            total += 1
            if isinstance(fault := self._rendered(question), str):
                faults += 1
                where = where or f"{fault}; the first is in the source {question.source!r}"
        if faults:
            raise UserError(
                f"prompt {self.name!r} cannot be filled for {faults} of {total} problems: {where}; "
                '{{ NAME | default("...") }} fills a gap'
            )

    def fill(self, fields: Mapping[str, Any]) -> tuple[Message, ...]:
        """Returns the messages with these texts inserted verbatim."""
        return tuple(
            Message(role=role, content=template.render(fields)) for role, template in _compiled(self.text)
        )

    def _rendered(self, question: Question) -> tuple[Message, ...] | str:
        """The messages with columns, or why they cannot be made. No column hides a field of its name."""
        from jinja2 import TemplateError

        columns = question.column_values
        own = {name: getattr(question, name) for name in FIELDS}
        try:
            return self.fill({**columns, COLUMNS: columns, **own})
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as e:
            known = ", ".join(columns)[:300]
            return f"{one_line(e)} ({f'columns: {known}' if known else 'no columns are kept'})"


def load(name: str, *, judging: bool = False) -> Prompt:
    """Loads a prompt by the name of a file in this folder, or by a path that ends in .txt.

    `judging` loads the LLM judge's prompt. Raises UserError that names the mistake in a file.
    """
    path = shipped.find(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors may write a mark at the start
    except (OSError, UnicodeDecodeError, ValueError) as e:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.txt")))
        raise UserError(f"prompt {name!r} cannot be read ({e}); prompts here: {known}") from None
    _check(str(path), text, JUDGE_FIELDS if judging else None)
    return Prompt(path.stem, text)


def text_fields(text: str) -> set[str]:
    """Returns the fields of a template of plain text, such as a source's question_template.

    Raises UserError if it is no template.
    """
    from jinja2 import TemplateSyntaxError, meta

    try:
        return set(meta.find_undeclared_variables(_environment().parse(text)))
    except TemplateSyntaxError as e:
        raise UserError(f"not a Jinja template: {e.message}") from None


def fill_text(text: str, fields: Mapping[str, Any]) -> str:
    """Returns a template of plain text with its fields inserted. Raises UserError if one is missing."""
    from jinja2 import TemplateError

    try:
        return _compiled_text(text).render(fields)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as e:
        raise UserError(one_line(e)) from None


def _turns(text: str) -> list[Message]:
    _, *parts = _ROLE.split(text)
    return [
        Message.model_validate({"role": role, "content": content.strip()})
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


@lru_cache
def _compiled(text: str) -> list[tuple[Role, Template]]:
    environment = _environment()
    compiled = [(turn.role, environment.from_string(turn.content)) for turn in _turns(text)]
    for _, template in compiled:
        template.globals = {**template.globals}  # a plain dict is read faster at each rendering
    return compiled


@lru_cache
def _compiled_text(text: str) -> Template:
    return _environment().from_string(text)


def _environment() -> SandboxedEnvironment:
    """The templates' environment, in which a missing field is an error."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, finalize=_shown)


def _shown(value: Any) -> Any:
    """A value as it is inserted: lists and objects as JSON. Raises a TemplateError for null, as for a gap."""
    if value is None:
        from jinja2 import UndefinedError

        raise UndefinedError('a value is null; default("...", true) fills the gap')
    return json.dumps(value, ensure_ascii=False, default=float) if isinstance(value, list | dict) else value


def _variables(text: str) -> set[str]:
    """The fields that a prompt names."""
    from jinja2 import meta

    environment = _environment()
    return set().union(
        *(meta.find_undeclared_variables(environment.parse(turn.content)) for turn in _turns(text))
    )


def _check(path: str, text: str, judging: Sequence[str] | None) -> None:
    """Raises UserError for a mistake in a prompt; `judging`: the fields of the LLM judge's prompt."""
    from jinja2 import TemplateSyntaxError, meta

    if before := _ROLE.split(text)[0].strip():
        raise UserError(f"{path}: {before[:50]!r} is in no turn: begin with a line [system] or [user]")
    turns = _turns(text)
    roles = [turn.role for turn in turns]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if len(dialogue) % 2 == 0 or dialogue != (["user", "assistant"] * len(dialogue))[: len(dialogue)]:
        raise UserError(
            f"{path}: turns must be [system] (optional), then [user] and [assistant] alternating, [user] last"
        )
    try:
        named = _variables(text)
        last = meta.find_undeclared_variables(_environment().parse(turns[-1].content))
    except TemplateSyntaxError as e:
        raise UserError(f"{path}: not a Jinja template: {e.message}") from None
    unknown = named - set(judging) if judging else named & (set(JUDGE_FIELDS) - set(FIELDS))
    if unknown:
        known = ", ".join(judging or FIELDS) + ("" if judging else ", and the columns of the source")
        raise UserError(f"{path}: unknown field {min(unknown)!r}; known fields: {known}")
    if missing := next((name for name in judging or REQUIRED if name not in last), None):
        raise UserError(f"{path}: the last [user] turn does not contain {{{{ {missing} }}}}")
