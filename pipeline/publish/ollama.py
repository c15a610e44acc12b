"""Writes an Ollama Modelfile: chat template in Ollama's own language, ends of an answer, sampling.

Ollama does not run a model's Jinja template. The template is rendered with marks in place of the texts; what
stands between the marks is written in Go's template language (pkg.go.dev/text/template). That is exact for
templates that only join messages. `template()` renders some conversations both ways and refuses others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.compress import export_files
from pipeline.config.evaluate import Evaluate
from pipeline.errors import UserError, one_line, user_error

Messages = Sequence[tuple[str, str]]  # (role, text)

_SYSTEM, _QUESTION, _ANSWER, _NEXT = (f"\x02{name}\x03" for name in ("system", "question", "answer", "next"))
_TALKS: tuple[Messages, ...] = (
    [("user", "a")],
    [("system", "s"), ("user", "a")],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
)
_GO = """{{- range $i, $m := .Messages -}}
{{- if and (eq $i 0) (ne $m.Role "system") -}}{{- %(begin)s -}}{{- end -}}
{{- if eq $m.Role "system" -}}{{- %(system)s -}}{{- $m.Content -}}{{- %(after_system)s -}}
{{- else if eq $m.Role "user" -}}{{- $m.Content -}}
{{- if eq (len (slice $.Messages $i)) 1 -}}{{- %(answer)s -}}{{- else -}}{{- %(after_user)s -}}{{- end -}}
{{- else if eq $m.Role "assistant" -}}{{- $m.Content -}}{{- %(after_assistant)s -}}
{{- end -}}
{{- end -}}"""


def modelfile(student: Path, gguf: Path, sampling: Evaluate) -> str:
    """Returns the Modelfile for a GGUF file. Raises UserError if Ollama cannot have the template."""
    texts = template(student, adds_start(gguf))
    joints = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
    lines = [
        f"FROM ./{gguf.name}",
        f'TEMPLATE """{_GO % joints}"""',
        *(f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}" for token in _ends(student)),
        f"PARAMETER temperature {sampling.temperature:g}",
        f"PARAMETER top_p {sampling.top_p:g}",
        "PARAMETER top_k 0",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def adds_start(gguf: Path) -> bool:
    """Whether llama.cpp puts the file's first token before a text by itself. Raises UserError."""
    from gguf import GGUFReader

    with user_error(f"{gguf} cannot be read", OSError, ValueError, IndexError):
        fields = GGUFReader(gguf).fields
        if (said := fields.get("tokenizer.ggml.add_bos_token")) is not None:
            return bool(said.contents())
        return fields["tokenizer.ggml.model"].contents() == "llama"  # as llama.cpp does for SentencePiece


def template(student: Path, adds_start: bool) -> dict[str, str]:
    """Returns the texts between the messages of a conversation, by the names that _GO uses.

    adds_start: the program adds the token that begins a text, so it is left out. Raises UserError if the
    student's chat template does more than join messages.
    """
    from jinja2 import TemplateError

    source, config = export_files.chat_template(student), _read(student / "tokenizer_config.json")
    talk = [("system", _SYSTEM), ("user", _QUESTION), ("assistant", _ANSWER), ("user", _NEXT)]
    try:
        found = _between(_render(source, config, talk))
        alone = _between(_render(source, config, [("user", _QUESTION)]))
        names = ("system", "after_system", "after_user", "after_assistant", "answer", "begin")
        joints = dict(zip(names, [*found, alone[0]], strict=True))
        if any(_joined(joints, talk) != _render(source, config, talk) for talk in _TALKS):
            raise ValueError("it does more than join messages")
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as e:
        raise UserError(f"{student}: its chat template has no equal in Ollama: {one_line(e)}") from None
    start = _token(config, "bos_token") if adds_start else ""
    return joints | {name: joints[name].removeprefix(start) for name in ("system", "begin")}


def _between(text: str) -> list[str]:
    """The texts around the marks."""
    parts = [part.rpartition("\x03")[2] for part in text.split("\x02")]
    if len(parts) not in (2, 5):
        raise ValueError("it leaves out or repeats a message")
    return parts


def _joined(joints: Mapping[str, str], talk: Messages) -> str:
    """What Ollama makes of a conversation with the Go template."""
    text = "" if talk[0][0] == "system" else joints["begin"]
    for i, (role, said) in enumerate(talk):
        text += joints["system"] if role == "system" else ""
        text += said + joints["answer" if i == len(talk) - 1 else f"after_{role}"]
    return text


def _render(source: str, config: Mapping[str, Any], talk: Messages) -> str:
    """Renders a chat template as transformers does."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> str:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse}
    return environment.from_string(source).render(
        messages=[{"role": role, "content": text} for role, text in talk],
        add_generation_prompt=True,
        bos_token=_token(config, "bos_token"),
        eos_token=_token(config, "eos_token"),
    )


def _token(config: Mapping[str, Any], name: str) -> str:
    """A special token of a tokenizer's config, which has it as text or as an object."""
    token = config.get(name) or ""
    return str(token.get("content", "") if isinstance(token, dict) else token)


def _ends(student: Path) -> list[str]:
    """The tokens that end an answer, as text, sorted. Raises UserError for one that has none."""
    tokenizer, wanted = _read(student / "tokenizer.json"), export_files.student_end_ids(student)
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    known = {number: text for text, number in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    known |= {added["id"]: added["content"] for added in tokenizer.get("added_tokens", [])}
    if missing := wanted - known.keys():
        raise UserError(f"{student}/tokenizer.json has no text for the end token {min(missing)}")
    return sorted(known[number] for number in wanted)


def _read(file: Path) -> dict[str, Any]:
    with user_error(f"{file} cannot be read", OSError, ValueError):
        found: dict[str, Any] = json.loads(file.read_bytes())
    return found
