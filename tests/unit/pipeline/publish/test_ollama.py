"""The chat template in Ollama's language, compared with the template as transformers renders it."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from pipeline.config.evaluate import Evaluate
from pipeline.errors import UserError
from pipeline.publish.ollama import adds_start, modelfile, template

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_DEFAULT = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '<<SYS>>' + m['content'] }}{% else %}{{ m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)


def student(folder: Path, chat_template: str, **config: object) -> Path:
    (folder / "chat_template.jinja").write_text(chat_template)
    config = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    added = [{"content": "<s>", "id": 0}, {"content": "<|im_end|>", "id": 2}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 1}}, "added_tokens": added}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2]}))
    return folder


def test_the_texts_between_messages_are_those_of_the_chat_template(tmp_path: Path) -> None:
    assert template(student(tmp_path, CHATML), False) == {
        "begin": "<|im_start|>user\n",
        "system": "<|im_start|>system\n",
        "after_system": "<|im_end|>\n<|im_start|>user\n",
        "after_user": "<|im_end|>\n<|im_start|>assistant\n",
        "after_assistant": "<|im_end|>\n<|im_start|>user\n",
        "answer": "<|im_end|>\n<|im_start|>assistant\n",
    }


def test_a_system_message_that_the_template_adds_is_kept(tmp_path: Path) -> None:
    found = template(student(tmp_path, WITH_DEFAULT + CHATML), False)
    assert found["begin"] == "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n"
    assert found["system"] == "<|im_start|>system\n"


def test_the_token_that_the_tokenizer_adds_is_not_written_twice(tmp_path: Path) -> None:
    assert template(student(tmp_path, LLAMA2), True)["begin"] == "[INST] "
    assert template(student(tmp_path, LLAMA2), False)["begin"] == "<s>[INST] "


def gguf(folder: Path, kind: str, adds_bos: bool | None) -> Path:
    """Writes a GGUF file with a tokenizer's fields and one tensor."""
    writer = GGUFWriter(folder / "model.gguf", "llama")
    writer.add_tokenizer_model(kind)
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    writer.add_tensor("x", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


@pytest.mark.parametrize(
    ("kind", "said", "adds"),
    [("gpt2", None, False), ("llama", None, True), ("gpt2", True, True), ("llama", False, False)],
)
def test_a_file_says_whether_its_first_token_is_added(
    tmp_path: Path, kind: str, said: bool | None, adds: bool
) -> None:
    assert adds_start(gguf(tmp_path, kind, said)) is adds


@pytest.mark.parametrize(
    "chat_template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0]['content'] }}",
        "{{ messages | length }}" + CHATML,
        "{{ nosuch.field }}",
        "{% for",
    ],
)
def test_a_template_that_does_more_than_join_is_refused(tmp_path: Path, chat_template: str) -> None:
    with pytest.raises(UserError, match="has no equal in Ollama"):
        template(student(tmp_path, chat_template), False)


def test_the_modelfile_names_the_file_the_stops_and_the_sampling(tmp_path: Path) -> None:
    text = modelfile(student(tmp_path, CHATML), gguf(tmp_path, "gpt2", None), Evaluate(temperature=0.7))
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{- range $i, $m := .Messages -}}\n')
    assert '{{- "<|im_end|>\\n<|im_start|>assistant\\n" -}}' in text
    assert text.count("{{-") == text.count("-}}")
    assert text.endswith(
        'PARAMETER stop "<|im_end|>"\nPARAMETER temperature 0.7\nPARAMETER top_p 0.95\nPARAMETER top_k 0\n'
        "PARAMETER repeat_penalty 1\n"
    )
