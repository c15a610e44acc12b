"""The compress stage with a stand-in for its interpreter: rows, resuming, refusals, taking over."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from pipeline.compress import stage
from pipeline.compress.models import compressed_models, export_folder, export_path
from pipeline.compress.schemes import SCHEMES
from pipeline.compress.stage import COMPRESS
from pipeline.config import Recipe
from pipeline.config.compress import SchemeName
from pipeline.engine.execute import DONE, execute
from pipeline.engine.stage import Job
from pipeline.errors import Stopped, UserError
from pipeline.stages import STAGES, stages_of
from pipeline.train.stage import model_folder
from tests import tiny_student
from tests.unit.pipeline.compress import standin

# Schemes that no server of this machine is started for: transformers or onnxruntime of the interpreter
SERVERLESS = ["fp8", "nvfp4", "onnx"]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    return tmp_path / "tools"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def compress(run: Path, tools: Path, schemes: list[str] = SERVERLESS, **settings: Any) -> Job:
    job = standin.job(run, tools / "python", schemes=schemes, **settings)
    assert execute(COMPRESS, job.recipe, run) == DONE
    return job


def test_the_table_has_every_scheme_of_the_recipe() -> None:
    assert list(SCHEMES) == list(get_args(SchemeName))


def test_a_recipe_without_schemes_has_no_such_stage() -> None:
    assert "compress" not in stages_of(tiny_student.recipe())
    with pytest.raises(UserError, match=r"\[compress\] schemes = "):
        stage.check(tiny_student.recipe())


def test_the_stage_runs_between_training_and_evaluation(tools: Path) -> None:
    names = list(stages_of(standin.recipe(schemes=["w8a8"])))
    assert names == [name for name in STAGES if name != "score"]
    assert names[-3:] == ["train", "compress", "evaluate"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"schemes": ["w8a8", "w8a8"]}, "listed twice"), ({"schemes": ["w3"]}, "Input should")],
)
def test_wrong_schemes_are_refused(settings: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        standin.recipe(**settings)


def test_without_a_student_nothing_can_be_compressed() -> None:
    plain = tiny_student.recipe().model_dump(mode="json", exclude_defaults=True) | {"student": None}
    with pytest.raises(ValidationError, match="needs a student"):
        Recipe.model_validate(plain | {"compress": {"schemes": ["w8a8"]}})


def test_each_scheme_is_a_row_with_its_folder(run: Path, tools: Path) -> None:
    standin.interpreter(tools)
    compress(run, tools, calibration_examples=3)
    rows = {row.id: row for row in compressed_models(run)}
    assert list(rows) == SERVERLESS
    for scheme, row in rows.items():
        assert (run / row.path) == export_path(run, scheme)  # type: ignore[arg-type]
        assert row.bytes == sum(p.stat().st_size for p in (run / row.path).iterdir())
        assert len({p.stat().st_mode for p in (run / row.path).iterdir()}) == 1
        assert row.whole_bytes == stage.size(model_folder(run))
        assert (row.logprob, row.answer) == (-0.1, "3")
    assert (rows["nvfp4"].calibration_examples, rows["nvfp4"].calibration_tokens) == (3, 99)
    assert rows["fp8"].calibration_examples is None
    assert rows["fp8"].gpu_only
    assert (rows["onnx"].made_by, rows["onnx"].checked_by) == ("onnxruntime-genai 1.0",) * 2


def test_no_row_until_all_are_there(run: Path) -> None:
    assert compressed_models(run) == []


def test_what_is_made_is_not_made_again(run: Path, tools: Path) -> None:
    standin.interpreter(tools, fails=["onnx"])
    with pytest.raises(Stopped, match=r"making onnx failed: it broke \(log: .*compress-onnx.log\)"):
        compress(run, tools)
    first = standin.calls(tools)
    assert first[-1] == "onnx onnx"
    standin.behave(tools)
    compress(run, tools)
    assert standin.calls(tools)[len(first) :] == ["onnx onnx", "ask_onnxruntime"]


def test_an_export_that_was_whole_when_the_process_died_is_not_made_again(run: Path, tools: Path) -> None:
    standin.interpreter(tools)
    compress(run, tools, ["fp8"])
    first = standin.calls(tools)
    (run / "compress" / "fp8.parquet").unlink()
    row = json.loads((run / "compress" / "models" / "fp8.json").read_text())["row"]
    compress(run, tools, ["fp8"])
    assert standin.calls(tools) == first
    assert [model.model_dump(mode="json") for model in compressed_models(run)] == [
        row | {"served_by": "vllm"}
    ]


def test_the_rest_of_a_killed_attempt_is_removed(run: Path, tools: Path) -> None:
    standin.interpreter(tools)
    part = export_folder(run, "fp8").with_name("fp8.part")
    part.mkdir(parents=True)
    (part / "torn").touch()
    compress(run, tools, ["fp8"])
    assert not part.exists()
    assert not (export_folder(run, "fp8") / "torn").exists()


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        ({"config": {"eos_token_id": 0}}, "config.json: eos_token_id is 0, the student's 2"),
        ({"reply": {"prompt_ids": [1]}}, "it turns the messages into other tokens"),
        ({"reply": {"logprob": -9.0}}, "log-probability of -9.00 per token"),
        ({"reply": {"stops": False}}, "does not stop"),
    ],
)
def test_a_broken_export_is_refused_in_one_line(run: Path, tools: Path, behaviour: Any, fault: str) -> None:
    standin.interpreter(tools, **behaviour)
    with pytest.raises(UserError, match="the export fp8 is broken: ") as refused:
        compress(run, tools, ["fp8"])
    assert fault in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not export_folder(run, "fp8").exists()
    assert compressed_models(run) == []


def test_a_wrong_end_of_text_in_an_onnx_export_is_refused(run: Path, tools: Path) -> None:
    standin.interpreter(tools, eos=0)
    with pytest.raises(
        UserError, match=r"the export onnx is broken: genai_config.json: eos_token_id is \[0\]"
    ):
        compress(run, tools, ["onnx"])


def test_a_new_scheme_takes_over_those_that_are_there(run: Path, tools: Path) -> None:
    standin.interpreter(tools)
    compress(run, tools, ["fp8", "nvfp4"])
    first = standin.calls(tools)
    compress(run, tools, ["onnx", "fp8", "nvfp4"], calibration_examples=2)
    again = standin.calls(tools)[len(first) :]
    assert [call for call in again if not call.startswith("ask")] == ["onnx onnx", "quantize nvfp4"]
    assert [row.id for row in compressed_models(run)] == ["onnx", "fp8", "nvfp4"]
    assert (run / "previous" / "compress" / "0001" / "models" / "fp8" / "config.json").exists()


def test_what_an_unfinished_attempt_made_outlives_a_change_of_the_schemes(run: Path, tools: Path) -> None:
    standin.interpreter(tools, fails=["onnx"])
    with pytest.raises(Stopped):
        compress(run, tools)
    first = standin.calls(tools)
    compress(run, tools, ["nvfp4", "fp8"])
    assert standin.calls(tools)[len(first) :] == []
    assert [row.id for row in compressed_models(run)] == ["nvfp4", "fp8"]


def test_another_student_is_asked_and_compressed_again(run: Path, tools: Path) -> None:
    standin.interpreter(tools)
    compress(run, tools, ["fp8"])
    first = standin.calls(tools)
    for stage_before in ("select", "train"):
        shutil.rmtree(run / stage_before)
    given = standin.job(run, tools / "python", examples=4, schemes=["fp8"])
    assert execute(COMPRESS, given.recipe, run) == DONE
    assert standin.calls(tools) == first * 2


def test_too_little_disk_space_is_found_first(
    run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.interpreter(tools)
    monkeypatch.setattr(stage, "ROOM", 10**15)
    with pytest.raises(UserError, match="not enough disk space to compress"):
        compress(run, tools, ["fp8"])
    assert not (tools / "calls").exists()
