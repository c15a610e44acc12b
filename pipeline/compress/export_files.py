"""Compares the files of an export with the student's: tokenizer, chat template, ids that end an answer.

Exporters drop or change these without an error, and the model then answers with garbage or never stops.
`faults()` reads files only; that the export answers is seen by asking.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, user_error
from pipeline.model_rows import ExportFormat

# Files beside the weights that a server reads to turn messages into tokens and to end an answer
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
COPIED = (*TOKENIZER_FILES, "generation_config.json")
_IDS = ("eos_token_id", "bos_token_id")


def copy_tokenizer(student: Path, export: Path) -> None:
    """Copies the student's tokenizer and generation config over those that the tool wrote."""
    for name in COPIED:
        (export / name).unlink(missing_ok=True)
        if (student / name).is_file():
            shutil.copyfile(student / name, export / name)


def faults(format: ExportFormat, export: Path, student: Path) -> list[str]:
    """What differs from the student's files in a way that changes answers; [] if nothing does.

    export, student: folders. Raises UserError for a file that cannot be read.
    """
    if format == "gguf":
        return list(_gguf_faults(export / "model.gguf", student))
    found = list(_tokenizer_faults(export, student))
    return found + list(_hf_faults(export, student) if format == "hf" else _onnx_faults(export, student))


def _tokenizer_faults(export: Path, student: Path) -> Iterator[str]:
    for name in TOKENIZER_FILES:
        if not (student / name).is_file():
            continue
        if not (export / name).is_file():
            yield f"{name} is missing"
        elif (export / name).read_bytes() != (student / name).read_bytes():
            yield f"{name} differs from the student's"


def _hf_faults(export: Path, student: Path) -> Iterator[str]:
    if end_ids(_read(export / "generation_config.json")) != student_end_ids(student):
        yield "generation_config.json has other eos_token_id than the student's"
    ours, theirs = (_text_config(_read(folder / "config.json")) for folder in (student, export))
    for name in _IDS:
        if ours.get(name) != theirs.get(name):
            yield f"config.json: {name} is {theirs.get(name)}, the student's {ours.get(name)}"
    if not isinstance(_read(export / "config.json").get("quantization_config"), dict):
        yield "config.json has no quantization_config, so the weights are not compressed"


def _onnx_faults(export: Path, student: Path) -> Iterator[str]:
    found = end_ids(_read(export / "genai_config.json").get("model", {}))
    if found != student_end_ids(student):
        yield f"genai_config.json: eos_token_id is {sorted(found)}, not {sorted(student_end_ids(student))}"


def _gguf_faults(file: Path, student: Path) -> Iterator[str]:
    from gguf import GGUFReader

    with user_error(f"{file} cannot be read", OSError, ValueError, IndexError):
        fields = GGUFReader(file).fields

        def value(name: str) -> Any:
            return fields[name].contents() if name in fields else None

        template, end = value("tokenizer.chat_template"), value("tokenizer.ggml.eos_token_id")
        tokens = value("tokenizer.ggml.tokens") or []
    if template is None:
        yield "it has no chat template"
    elif template.strip() != chat_template(student).strip():
        yield "its chat template differs from the student's"
    if end not in student_end_ids(student):
        yield f"its end-of-text token is {end}, not one of {sorted(student_end_ids(student))}"
    known = _vocabulary(student)  # the prompt of the check tells whether added tokens are right
    wrong = sum(tokens[number : number + 1] != [text] for text, number in known.items())
    if wrong:
        yield f"{wrong} tokens of its vocabulary differ from the student's"


def student_end_ids(student: Path) -> set[int]:
    """The tokens that end an answer of the student. Raises UserError if it names none."""
    file = student / "generation_config.json"
    found = end_ids(_read(file)) if file.is_file() else set()
    found = found or end_ids(_text_config(_read(student / "config.json")))
    if not found:
        raise UserError(f"{student}: neither config.json nor generation_config.json has an eos_token_id")
    return found


def end_ids(config: dict[str, Any]) -> set[int]:
    """The eos_token_id of a config as a set."""
    found = config.get("eos_token_id")
    return set(found) if isinstance(found, list) else set() if found is None else {found}


def chat_template(student: Path) -> str:
    """The student's chat template. Raises UserError if it has none."""
    file = student / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = _read(student / "tokenizer_config.json").get("chat_template")
    if not isinstance(template, str):
        raise UserError(f"{student}: its tokenizer has no chat template")
    return template


def _vocabulary(student: Path) -> dict[str, int]:
    """Token -> id, without added tokens, whose text the converter may normalize; {} if there is no list."""
    if not (student / "tokenizer.json").is_file():
        return {}
    document = _read(student / "tokenizer.json")
    added = {token["content"] for token in document.get("added_tokens", [])}
    vocabulary = document.get("model", {}).get("vocab", {})
    if not isinstance(vocabulary, dict):
        return {}
    return {token: number for token, number in vocabulary.items() if token not in added}


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = config.get("text_config", config)
    return text


def _read(file: Path) -> dict[str, Any]:
    with user_error(f"{file} cannot be read", OSError, ValueError):
        document: dict[str, Any] = json.loads(file.read_bytes())
    return document
