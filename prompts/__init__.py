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

The fields are Jinja variables (FIELDS). The reference is not one of them, so no prompt can leak it; only the
LLM judge's prompt has it (JUDGE_FIELDS). To add a prompt, write prompts/NAME.txt and set it in the recipe.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.rows import Message, Question, Role

if TYPE_CHECKING:
    from jinja2 import Template

FOLDER = Path(__file__).parent
FIELDS = ("question", "source")
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

    def render(self, question: Question) -> tuple[Message, ...]:
        """Returns the messages that ask the question. Its text is inserted verbatim, never as a template."""
        return self.fill({name: getattr(question, name) for name in FIELDS})

    def fill(self, fields: Mapping[str, str]) -> tuple[Message, ...]:
        """Returns the messages with these texts inserted verbatim."""
        return tuple(
            Message(role=role, content=template.render(fields)) for role, template in _compiled(self.text)
        )


def load(name: str, *, judging: bool = False) -> Prompt:
    """Loads a prompt by the name of a file in this folder, or by a path that ends in .txt.

    `judging` loads the LLM judge's prompt. Raises UserError that names the mistake in a file.
    """
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as e:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.txt")))
        raise UserError(f"prompt {name!r} cannot be read ({e}); prompts here: {known}") from None
    _check(str(path), text, *((JUDGE_FIELDS, JUDGE_FIELDS) if judging else (FIELDS, REQUIRED)))
    return Prompt(path.stem, text)


def _turns(text: str) -> list[Message]:
    _, *parts = _ROLE.split(text)
    return [
        Message.model_validate({"role": role, "content": content.strip()})
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


@lru_cache
def _compiled(text: str) -> list[tuple[Role, Template]]:
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment()
    compiled = [(turn.role, environment.from_string(turn.content)) for turn in _turns(text)]
    for _, template in compiled:
        template.globals = {**template.globals}  # a plain dict is read faster at each rendering
    return compiled


def _check(path: str, text: str, known: Sequence[str], required: Sequence[str]) -> None:
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import SandboxedEnvironment

    roles = [turn.role for turn in _turns(text)]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if len(dialogue) % 2 == 0 or dialogue != (["user", "assistant"] * len(dialogue))[: len(dialogue)]:
        raise UserError(
            f"{path}: turns must be [system] (optional), then [user] and [assistant] alternating, [user] last"
        )
    try:
        parsed = [SandboxedEnvironment().parse(turn.content) for turn in _turns(text)]
    except TemplateSyntaxError as e:
        raise UserError(f"{path}: not a Jinja template: {e.message}") from None
    unknown = set().union(*map(meta.find_undeclared_variables, parsed)) - set(known)
    if unknown:
        raise UserError(f"{path}: unknown field {min(unknown)!r}; known fields: {', '.join(known)}")
    present = meta.find_undeclared_variables(parsed[-1])
    if missing := next((name for name in required if name not in present), None):
        raise UserError(f"{path}: the last [user] turn does not contain {{{{ {missing} }}}}")
