"""Compressed students from evaluate to the card, the terminal and a server of their own.

Nothing is compressed: the exports are copies of a tiny student, and the fake server answers in place of
their programs.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.compress.models import export_folder, export_path
from pipeline.compress.schemes import SCHEMES
from pipeline.compress.stage import COMPRESS, size
from pipeline.config import Recipe
from pipeline.config.compress import SchemeName
from pipeline.config.load import load_recipe
from pipeline.engine.execute import execute
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.evaluate.models import eval_models, sampling_stages
from pipeline.evaluate.stage import _reach
from pipeline.inference.vllm_server import Server
from pipeline.inspect import compression
from pipeline.model_rows import CompressedModel, Recovered
from pipeline.publish import publish
from pipeline.report.build import write_report
from pipeline.stages import STAGES, stages_of
from pipeline.train.stage import model_folder
from tests import fake_interpreter, tiny_student
from tests.conftest import FakeServer
from tests.e2e.runs import ROOT, retort, start, write_recipe

pytest.importorskip("torch")
RECOVERED = Recovered(
    steps=7,
    measured_on="validation",
    examples=8,
    divergence_before=0.05,
    divergence=0.06,
    same_before=0.95,
    same=0.94,
    kept=False,
)
SCHEMES_MADE: tuple[SchemeName, ...] = ("w8a8", "gguf-q8_0", "fp8")


def export(job: Job, scheme: SchemeName) -> CompressedModel:
    folder, path = export_folder(job.run_dir, scheme), export_path(job.run_dir, scheme)
    shutil.copytree(model_folder(job.run_dir), folder)
    kind = SCHEMES[scheme]
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    if kind.format == "gguf":
        path.write_bytes(b"GGUF")
    return CompressedModel(
        id=scheme,
        format=kind.format,
        path=str(path.relative_to(job.run_dir)),
        bytes=size(folder),
        whole_bytes=size(model_folder(job.run_dir)),
        made_by="tool 1.0",
        served_by=kind.served_by,
        gpu_only=kind.gpu_only,
        calibration_examples=128 if kind.calibrated else None,
        calibration_tokens=None,
        checked_by="program 1.0",
        logprob=-0.2,
        whole_logprob=-0.1,
        answer="5",
        recovered=RECOVERED if kind.calibrated else None,
    )


def trained(job: Job, shards: Iterable[Shard]) -> None:
    tiny_student.save(model_folder(job.run_dir))
    job.output.write("steps", [])


def compressed(job: Job, shards: Iterable[Shard]) -> None:
    for scheme in job.recipe.compress.schemes:
        job.output.write(scheme, [export(job, scheme)])


def made(recipe: Recipe, folder: Path, url: str) -> None:
    """Runs all stages; training and compressing are replaced, and so are vLLM's answers."""
    train = replace(STAGES["train"], work=trained, prepare=None, report=None)
    compress = replace(COMPRESS, shards=SCHEMES_MADE, work=compressed, prepare=None, report=None)
    stages: list[Stage] = [STAGES[name] for name in ("ingest", "generate", "filter", "select")]
    for stage in (*stages, train, compress):
        assert execute(stage, recipe, folder) == 0
    fake = Server(base_urls=(url,), model="fake")
    for model in eval_models(recipe, folder):
        by_vllm = model.scheme is None or SCHEMES[model.scheme].served_by == "vllm"
        for stage in sampling_stages(
            model,
            recipe,
            lambda job, by_vllm=by_vllm, model=model: nullcontext(fake) if by_vllm else _reach(model, job),
        ):
            assert execute(stage, recipe, folder) == 0
    assert execute(stages_of(recipe)["evaluate"], recipe, folder) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything in it."""
    parent = tmp_path_factory.mktemp("compressed")
    server = FakeServer("--correct", "0.7", "--malformed", "0")
    try:
        schemes = f"compress.schemes={json.dumps(SCHEMES_MADE)}"
        python = f"compress.python={fake_interpreter.write(parent)}"
        settings = ("ingest.held_out=0.5", "evaluate.samples=2", "evaluate.max_tokens=64", schemes, python)
        recipe = load_recipe(write_recipe(parent, server.url), settings)
        made(recipe, parent / "test", server.url)
    finally:
        server.stop()
    return parent / "test"


def test_evaluate_compares_each_served_form_with_the_whole_student(folder: Path) -> None:
    run = open_run(folder)
    roles = {score.model_role for score in run.scores}
    assert roles == {"teacher", "base", "student", "student-w8a8", "student-gguf-q8_0"}
    report = run.report("evaluate")
    assert {c["other"] for c in report["student"]} == {"base", "teacher"}
    assert [c["other"] for c in report["compressed"]] == ["student-w8a8", "student-gguf-q8_0"]
    assert set(report["not_evaluated"]) == {"fp8"}
    agreed = report["greedy_agreement"]["held_out/student-w8a8"]  # the same server answered for both
    assert agreed["same"] == agreed["problems"] > 0


def test_the_table_has_size_speed_and_memory_and_says_what_is_not_known(folder: Path) -> None:
    from pipeline.evaluate.metrics import summarise

    run = open_run(folder)
    found = compression.compression_of(run, summarise(run.scores))
    assert found is not None
    models = {model.model_role: model for model in found.models}
    assert models["student-w8a8"].bytes
    assert models["teacher"].bytes is None  # reached by its URL
    assert models["student"].difference is None
    assert models["student-w8a8"].difference is not None
    assert models["student"].tokens_per_second
    assert models["student"].memory is None  # that server was not started by retort
    if sys.platform == "linux":
        assert models["student-gguf-q8_0"].memory
    assert [each.scheme for each in found.not_evaluated] == ["fp8"]

    shown = retort(folder.parent, "status", "test").stdout
    assert "points from the student" in shown
    assert "student-fp8" in shown
    document = json.loads(retort(folder.parent, "status", "test", "--json").stdout)
    assert len(document["compression"]["models"]) == len(found.models)
    page = write_report(run, folder.parent / "report.html").read_text()
    assert "Size and pass@1" in page
    assert "student-fp8" in page


def test_other_schemes_or_another_calibration_sample_only_what_they_change(folder: Path) -> None:
    recipe = open_run(folder).recipe

    def settings(recipe: Recipe, role: str) -> object:
        model = next(m for m in eval_models(recipe, folder) if m.role == role)
        return [
            stage.settings(recipe) for stage in sampling_stages(model, recipe, lambda job: nullcontext(None))
        ]  # type: ignore[arg-type]

    table = recipe.compress.model_copy(update={"schemes": ("onnx", *SCHEMES_MADE), "calibration_examples": 9})
    other = recipe.model_copy(update={"compress": table})
    for role in ("student", "student-gguf-q8_0"):
        assert settings(recipe, role) == settings(other, role)
    assert settings(recipe, "student-w8a8") != settings(other, "student-w8a8")


def test_each_form_is_published_with_a_card_that_serves_it(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder)
    publish(run, str(tmp_path / "out"), with_traces=False, student_formats=("w8a8",), private=False)
    card = (tmp_path / "out/student-w8a8/README.md").read_text()
    assert "vllm serve ." in card
    assert "calibrated on 128 of its own training examples" in card
    assert "trained for 7 steps to answer as the whole student; that brought nothing" in card
    assert "0.0500 nats per token before, 0.0600 after" in card
    assert "| held\\_out | student-w8a8 |" in card
    assert not (tmp_path / "out/student").exists()
    assert (tmp_path / "out/student-w8a8/tokenizer.json").is_file()
    for wrong, message in (("onnx", "it has no onnx"), ("w8a9", "did you mean 'w8a8'")):
        done = retort(folder.parent, "publish", "test", "--to", str(tmp_path / "x"), "--format", wrong)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_broken_export_is_not_published(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "test"
    shutil.copytree(folder, broken)
    (broken / "compress/models/w8a8/chat_template.jinja").unlink()
    for scheme, why in (("w8a8", "chat_template.jinja is missing"), ("gguf-q8_0", "cannot be read")):
        done = retort(tmp_path, "publish", "test", "--to", str(tmp_path / "out"), "--format", scheme)
        assert done.returncode == 2
        assert why in done.stderr
        assert done.stderr.splitlines()[-1].startswith("retort: ")
    assert not (tmp_path / "out").exists()


def test_a_compressed_student_answers_in_the_terminal(folder: Path) -> None:
    words = ["--runs", str(folder.parent), "chat", "test", "--scheme", "gguf-q8_0"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=ROOT,
        input="What is 2 + 3?",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "llama.cpp is ready" in done.stderr
    for scheme, message in (("onnx", "it has no 'onnx'"), ("fp8", "on GPUs only")):
        refused = retort(folder.parent, "chat", "test", "--scheme", scheme)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_serve_prints_what_a_client_needs_and_ends_at_ctrl_c(folder: Path) -> None:
    server = start(folder.parent, "serve", "test", "--scheme", "gguf-q8_0", "--port", "0")
    try:
        assert server.stdout
        lines = [server.stdout.readline() for _ in range(3)]
        url, model = (line.split()[1] for line in lines[:2])
        assert model == "test-student-gguf-q8_0"
        port = url.split(":")[2].partition("/")[0]
        taken = retort(folder.parent, "serve", "test", "--scheme", "gguf-q8_0", "--port", port)
        assert taken.returncode == 2
        assert f"port {port} cannot be used" in taken.stderr
        asked = subprocess.run(
            ["bash", "-c", f"{lines[2].strip()} -s"], capture_output=True, text=True, timeout=60
        )
        assert json.loads(asked.stdout)["choices"][0]["message"]["content"], asked.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5)
    finally:
        server.kill()
        server.communicate()
