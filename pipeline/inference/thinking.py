"""The switch by which a model is asked to think before it answers, or not to.

Training data, preflight and evaluate use this module, so the student is asked as it was trained. A switch is
- "enable_thinking" or "thinking": a variable of the chat template, sent as `chat_template_kwargs`. Qwen3,
  SmolLM3 and GLM-4.5 read the first; DeepSeek-V3.1 and Granite the second.
- "user" or "system": the words /no_think after the user's or the system's message, as Qwen3 and SmolLM3
  understand them. They serve for a template without a variable; thinking is then the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.mix import ThinkingSwitch
from pipeline.rows import ExampleKind, Message

NO_THINK = "/no_think"
VARIABLES: tuple[ThinkingSwitch, ...] = ("enable_thinking", "thinking")
# A tag of transformers that Jinja alone does not know.
_GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")


def switch_of(template: str) -> ThinkingSwitch:
    """Returns the variable that a chat template reads, or "user" if it reads none."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        read = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    except TemplateSyntaxError:
        read = set(re.findall(r"\benable_thinking\b", template))
    return next((name for name in VARIABLES if name in read), "user")


def arguments(switch: ThinkingSwitch | None, thinking: bool) -> dict[str, bool]:
    """Returns the variables of the chat template that ask a model to think or not."""
    return {switch: thinking} if switch in VARIABLES and switch is not None else {}


def asked(
    messages: Sequence[Mapping[str, str]], switch: ThinkingSwitch | None, thinking: bool
) -> list[dict[str, str]]:
    """Returns the messages of a prompt, with the words that switch thinking off where words do that."""
    given = [dict(message) for message in messages]
    if thinking or switch not in ("user", "system"):
        return given
    if switch == "system" and (not given or given[0]["role"] != "system"):
        return [{"role": "system", "content": NO_THINK}, *given]
    last = next(message for message in reversed(given) if message["role"] == switch)
    last["content"] = (
        f"{last['content']} {NO_THINK}" if switch == "user" else f"{last['content']}\n{NO_THINK}"
    )
    return given


def asked_messages(
    messages: Sequence[Message], switch: ThinkingSwitch | None, thinking: bool
) -> tuple[Message, ...]:
    """As asked(), for messages as rows."""
    if switch is None:
        return tuple(messages)
    plain = [message.model_dump() for message in messages]
    return tuple(map(Message.model_validate, asked(plain, switch, thinking)))


def thinks(kind: ExampleKind, answer: str) -> bool:
    """Whether an example is asked for with thinking on: a dialogue is, if its answer holds reasoning."""
    return kind == "reasoning" or (kind == "chat" and "</think>" in answer)


def with_template_arguments(extra_body: Mapping[str, Any], given: Mapping[str, bool]) -> dict[str, Any]:
    """Returns the further fields of a request, with these variables of the chat template."""
    if not given:
        return dict(extra_body)
    return {**extra_body, "chat_template_kwargs": {**extra_body.get("chat_template_kwargs", {}), **given}}
