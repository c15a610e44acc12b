"""Prompts as people edit them: one text file a prompt, read, checked and rendered here.

A file is a list of turns, each under a line that names its role in brackets. The last turn is [user] and
asks the question; user and assistant turns before it are worked examples; [system] may open the file:

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

Fields are Jinja's; FIELDS lists them. The reference answer is not among them, so no prompt can leak it; only
the prompt of a judge has fields of its own, JUDGED.
To add a prompt, write prompts/NAME.txt and name it in the recipe.
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
NEEDED = ("question",)
JUDGED = ("question", "reference", "response")  # a judge's prompt: all of them are needed
_ROLE = re.compile(r"^\[(system|user|assistant)\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    name: str
    text: str

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def render(self, question: Question) -> tuple[Message, ...]:
        """The messages that ask the question; its text is inserted as it stands, never read as a template."""
        return self.fill({name: getattr(question, name) for name in FIELDS})

    def fill(self, fields: Mapping[str, str]) -> tuple[Message, ...]:
        """The messages with these texts in them, each as it stands."""
        return tuple(
            turn if isinstance(turn, Message) else Message(role=turn[0], content=turn[1].render(fields))
            for turn in _compiled(self.text)
        )


def load(name: str, *, judging: bool = False) -> Prompt:
    """A prompt by the name of a file here, or by a path; `judging`: one that a judge is asked with.

    Raises UserError naming what is wrong with it.
    """
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as e:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.txt")))
        raise UserError(f"prompt {name!r} cannot be read ({e}); prompts here: {known}") from None
    _check(str(path), text, *((JUDGED, JUDGED) if judging else (FIELDS, NEEDED)))
    return Prompt(path.stem, text)


def _turns(text: str) -> list[Message]:
    _, *parts = _ROLE.split(text)
    return [
        Message.model_validate({"role": role, "content": content.strip()})
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


@lru_cache
def _compiled(text: str) -> list[Message | tuple[Role, Template]]:
    """The turns, ready to be rendered; those that mention no field are rendered already."""
    from jinja2 import meta
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment()
    compiled: list[Message | tuple[Role, Template]] = []
    for turn in _turns(text):
        template = environment.from_string(turn.content)
        fixed = not meta.find_undeclared_variables(environment.parse(turn.content))
        compiled.append(
            Message(role=turn.role, content=template.render()) if fixed else (turn.role, template)
        )
    return compiled


def _check(path: str, text: str, known: Sequence[str], needed: Sequence[str]) -> None:
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import SandboxedEnvironment

    roles = [turn.role for turn in _turns(text)]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if not dialogue or dialogue != _alternating(len(dialogue)):
        raise UserError(
            f"{path}: turns must be [system] (or none), then [user] and [assistant] in turn, [user] last"
        )
    try:
        parsed = [SandboxedEnvironment().parse(turn.content) for turn in _turns(text)]
    except TemplateSyntaxError as e:
        raise UserError(f"{path}: not a Jinja template: {e.message}") from None
    unknown = set().union(*map(meta.find_undeclared_variables, parsed)) - set(known)
    if unknown:
        raise UserError(f"{path}: unknown field {min(unknown)!r}; known fields: {', '.join(known)}")
    asked = meta.find_undeclared_variables(parsed[-1])
    if missing := next((name for name in needed if name not in asked), None):
        raise UserError(f"{path}: the last [user] turn does not contain {{{{ {missing} }}}}")


def _alternating(n: int) -> Sequence[str]:
    return [("user", "assistant")[i % 2] for i in range(n)] if n % 2 else []
