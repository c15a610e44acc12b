"""What the check of an export's files finds: each fault that exporters are known for is made on purpose."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from pipeline.compress import export_files
from pipeline.errors import UserError
from tests.tiny_student import CHATML
from tests.unit.pipeline.compress import standin


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return standin.student(tmp_path / "student")


@pytest.fixture
def export(student: Path, tmp_path: Path) -> Path:
    """An export in which nothing is wrong, as a model folder and for onnxruntime."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(standin.CONFIG | {"quantization_config": {}}))
    (folder / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": 2}}))
    export_files.copy_tokenizer(student, folder)
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("kind", ["hf", "onnx"])
def test_an_export_with_the_students_files_has_no_fault(kind: Any, student: Path, export: Path) -> None:
    assert export_files.faults(kind, export, student) == []


@pytest.mark.parametrize("kind", ["hf", "onnx"])
def test_a_missing_chat_template_is_found(kind: Any, student: Path, export: Path) -> None:
    (export / "chat_template.jinja").unlink()
    assert export_files.faults(kind, export, student) == ["chat_template.jinja is missing"]


def test_a_changed_tokenizer_is_found(student: Path, export: Path) -> None:
    change(export / "tokenizer.json", added_tokens=[])
    assert export_files.faults("hf", export, student) == ["tokenizer.json differs from the student's"]


def test_a_wrong_end_of_text_is_found_in_each_file_that_servers_read(student: Path, export: Path) -> None:
    change(export / "generation_config.json", eos_token_id=0)
    change(export / "config.json", eos_token_id=0)
    change(export / "genai_config.json", model={"eos_token_id": [0]})
    assert export_files.faults("hf", export, student) == [
        "generation_config.json has other eos_token_id than the student's",
        "config.json: eos_token_id is 0, the student's 2",
    ]
    assert export_files.faults("onnx", export, student) == ["genai_config.json: eos_token_id is [0], not [2]"]


def test_weights_that_are_not_compressed_are_found(student: Path, export: Path) -> None:
    (export / "config.json").write_text(json.dumps(standin.CONFIG))
    (fault,) = export_files.faults("hf", export, student)
    assert "no quantization_config" in fault


def test_the_students_files_replace_what_a_tool_wrote(student: Path, export: Path) -> None:
    (export / "added_tokens.json").write_text("{}")
    change(export / "generation_config.json", eos_token_id=0)
    export_files.copy_tokenizer(student, export)
    assert not (export / "added_tokens.json").exists()
    assert export_files.faults("hf", export, student) == []


def gguf(
    folder: Path, template: str | None = CHATML, end: int = 2, tokens: str = "x y <|im_end|> a b"
) -> Path:
    folder.mkdir()
    writer = GGUFWriter(folder / "model.gguf", "llama")
    if template is not None:
        writer.add_chat_template(template)
    writer.add_eos_token_id(end)
    writer.add_token_list(tokens.split())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def test_a_gguf_file_with_the_students_tokens_has_no_fault(student: Path, tmp_path: Path) -> None:
    assert export_files.faults("gguf", gguf(tmp_path / "g"), student) == []


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"template": None}, "it has no chat template"),
        ({"template": "{{ messages }}"}, "its chat template differs from the student's"),
        ({"end": 0}, "its end-of-text token is 0, not one of [2]"),
        ({"tokens": "x y <|im_end|> b a"}, "2 tokens of its vocabulary differ from the student's"),
        ({"tokens": "x y"}, "2 tokens of its vocabulary differ from the student's"),
    ],
)
def test_a_broken_gguf_file_is_found(wrong: Any, fault: str, student: Path, tmp_path: Path) -> None:
    assert export_files.faults("gguf", gguf(tmp_path / "g", **wrong), student) == [fault]


def test_a_file_that_cannot_be_read_is_one_line(student: Path, tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot be read"):
        export_files.faults("gguf", tmp_path / "g", student)


def test_a_student_that_names_no_end_is_refused(student: Path) -> None:
    (student / "generation_config.json").unlink()
    (student / "config.json").write_text("{}")
    with pytest.raises(UserError, match="eos_token_id"):
        export_files.student_end_ids(student)
