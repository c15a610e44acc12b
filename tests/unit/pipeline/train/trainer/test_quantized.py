"""Training of weights in 4 bits: what is written back is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.train.job import TrainJob
from tests import tiny_student

pytest.importorskip("trl")
GROUP = 32
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": GROUP,
            },
        }
    },
}


def export(student: Path, folder: Path) -> Path:
    """An export as llm-compressor writes it, by rounding to the nearest."""
    import torch
    from safetensors.torch import load_file, save_file

    from pipeline.train.trainer.quantized import pack

    folder.mkdir()
    tensors: dict[str, Any] = {}
    for name, weight in load_file(student / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight
            continue
        groups = weight.unflatten(1, (-1, GROUP))
        scale = groups.abs().amax(-1) / 7.5
        integers = (groups / scale[..., None]).round().clamp(-8, 7).flatten(1).to(torch.int32)
        tensors |= {f"{name}_packed": pack(integers), f"{name}_scale": scale}
        tensors[f"{name}_shape"] = torch.tensor(weight.shape)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((student / "config.json").read_text()) | {"quantization_config": CONFIG}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return tiny_student.save(tmp_path / "student")


@pytest.fixture
def rounded(student: Path, tmp_path: Path) -> Path:
    return export(student, tmp_path / "export")


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8, 9]])).logits


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def trained(student: Path, rounded: Path) -> Any:
    """The student with weights that a few large steps moved from one integer to others."""
    import torch

    from pipeline.train.trainer import quantized

    model = loaded(student)
    quantized.put_in(model, rounded)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    for _ in range(5):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("width", [5, 8, 24])
def test_packing_and_unpacking_keep_the_integers(width: int) -> None:
    import torch

    from pipeline.train.trainer.quantized import pack, unpack

    integers = torch.randint(-8, 8, (3, width), dtype=torch.int32)
    assert torch.equal(unpack(pack(integers), width), integers)


def test_integers_are_packed_as_compressed_tensors_does() -> None:
    import torch

    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    from pipeline.train.trainer.quantized import pack

    integers = torch.randint(-8, 8, (3, 20), dtype=torch.int32)
    assert torch.equal(pack(integers), helpers.pack_to_int32(integers.to(torch.int8), 4))


def test_before_any_step_the_student_predicts_as_the_export(student: Path, rounded: Path) -> None:
    import torch

    pytest.importorskip("compressed_tensors")
    from pipeline.train.trainer import quantized

    model = loaded(student)
    whole = logits(model)
    quantized.put_in(model, rounded)
    assert torch.allclose(logits(model), logits(loaded(rounded)), atol=1e-6)
    assert not torch.allclose(logits(model), whole, atol=1e-4)


def test_the_export_of_a_trained_student_predicts_exactly_as_the_training_did(
    student: Path, rounded: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    pytest.importorskip("compressed_tensors")
    from pipeline.train.trainer import quantized

    model = trained(student, rounded)
    quantized.write(model.state_dict(), rounded, tmp_path / "recovered")
    assert torch.allclose(logits(loaded(tmp_path / "recovered")), logits(model), atol=1e-6)
    assert not torch.allclose(logits(model), logits(loaded(rounded)), atol=1e-4)
    before, after = (load_file(f / "model.safetensors") for f in (rounded, tmp_path / "recovered"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.rpartition(".")[2] for name in changed} == {"weight_packed"}


def test_the_gradient_passes_through_the_rounding_but_not_beyond_the_ends() -> None:
    import torch

    from pipeline.train.trainer.quantized import RoundedLinear

    layer = torch.nn.Linear(4, 1, bias=False)
    rounded = RoundedLinear(layer, torch.zeros(1, 4, dtype=torch.int32), torch.full((1, 1), 0.5))
    rounded.weight.data = torch.tensor([[0.7, -0.9, 9.0, -9.0]])  # in steps of 0.5: 1.4, -1.8, and beyond
    found = rounded(torch.ones(1, 4))
    assert found.item() == pytest.approx(0.5 * (1 - 2 + 7 - 8))
    found.backward()
    assert rounded.weight.grad is not None
    assert rounded.weight.grad.tolist() == [[1, 1, 0, 0]]


def test_an_export_without_layers_in_4_bits_is_refused(student: Path) -> None:
    from pipeline.train.trainer import quantized

    with pytest.raises(UserError, match="no layer of it is in 4 bits"):
        quantized.put_in(loaded(student), student)


def test_an_export_of_another_student_is_refused(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer import quantized

    other = export(tiny_student.save(tmp_path / "other", hidden=128), tmp_path / "of_other")
    with pytest.raises(UserError, match="has another shape than the student's"):
        quantized.put_in(loaded(student), other)


def test_a_quantized_job_trains_the_rounded_weights_alone(
    student: Path, rounded: Path, tmp_path: Path
) -> None:
    from pipeline.train.trainer import load

    job: TrainJob = tiny_student.job(tmp_path, student).model_copy(update={"quantized": rounded})
    learned = {name for name, p in load.student(job).named_parameters() if p.requires_grad}
    assert learned
    assert all(name.endswith("_proj.weight") for name in learned)
