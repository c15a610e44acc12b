"""Whether models of known sizes fit on described machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import hardware
from pipeline.check import fit
from pipeline.config.endpoints import Student, Teacher
from pipeline.config.train import Train
from pipeline.inference.pruning import Pruning
from pipeline.train.model_facts import ModelFacts

QWEN3_32B = ModelFacts(
    name="Qwen/Qwen3-32B",
    parameters=32_762_123_264,
    weight_bytes=65_524_246_528,
    context=40_960,
    downloaded=True,
    config={"num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128},
)
QWEN25_7B = ModelFacts(
    name="Qwen/Qwen2.5-7B",
    parameters=7_615_616_512,
    layers=28,
    hidden=3584,
    intermediate=18_944,
    vocabulary=152_064,
    context=131_072,
    weight_bytes=15_231_233_024,
)


@pytest.fixture
def gpus() -> Iterator[Any]:
    """gpus(8, 80) makes the machine one with 8 GPUs of 80 GB until the test ends."""
    yield hardware.assume
    hardware.assume(0, 1)


def teacher(**engine: Any) -> Teacher:
    return Teacher(model="Qwen/Qwen3-32B", serve="vllm", vllm=engine)


@pytest.mark.parametrize(
    ("engine", "state"),
    [
        ({"tensor_parallel_size": 2, "data_parallel_size": 4, "max_model_len": 34_816}, "ok"),
        ({"tensor_parallel_size": 4, "data_parallel_size": 4}, "missing"),  # 16 GPUs
        ({"max_model_len": 40_960}, "missing"),  # 65.5 + 10.7 of 73.6 GB
        ({"max_model_len": 40_960, "kv_cache_dtype": "fp8"}, "ok"),
        ({"max-model-len": 34_816, "gpu_memory_utilization": 0.8}, "missing"),
    ],
)
def test_weights_and_one_sequence_must_fit_into_each_engine(gpus: Any, engine: Any, state: str) -> None:
    gpus(8, 80)
    requirement = fit.serving("generate", teacher(**engine), QWEN3_32B)
    assert requirement.state == state, requirement.detail
    assert "65.5 GB of weights" in requirement.detail


def test_models_that_are_served_at_once_must_share_the_gpus(gpus: Any) -> None:
    own = teacher().model_copy(update={"env": {"CUDA_VISIBLE_DEVICES": "1"}})
    third = teacher(gpu_memory_utilization=0.3)
    assert not list(fit.together("generate", [teacher(), teacher()]))  # without a GPU
    gpus(2, 80)
    [missing] = fit.together("generate", [teacher(), teacher()])
    assert (missing.state, "take 1.84 of" in missing.detail) == ("missing", True)
    for fits in ([teacher()], [teacher(), own], [third, third, third]):
        assert not list(fit.together("generate", fits))


def test_a_model_of_unknown_size_is_unknown_and_not_missing(gpus: Any) -> None:
    gpus(1, 24)
    assert fit.serving("generate", teacher(), ModelFacts(name="x")).state == "unknown"
    assert fit.training(Train(), True, ModelFacts(name="x"), None, ()).state == "unknown"


@pytest.mark.parametrize("length", ["32k", "auto", -1])
def test_a_length_that_vllm_reads_or_chooses_leaves_the_cache_unknown(gpus: Any, length: str | int) -> None:
    gpus(1, 80)
    requirement = fit.serving("generate", teacher(max_model_len=length), QWEN3_32B)
    assert (requirement.state, "a KV cache of unknown size" in requirement.detail) == ("unknown", True)


def test_a_cache_that_is_not_computed_is_not_called_empty(gpus: Any) -> None:
    latent = QWEN3_32B.model_copy(update={"config": QWEN3_32B.config | {"kv_lora_rank": 512}})
    gpus(1, 80)
    requirement = fit.serving("generate", teacher(), latent)
    assert (requirement.state, " 0.0 GB" in requirement.detail) == ("unknown", False)
    gpus(1, 24)
    assert fit.serving("generate", teacher(), latent).state == "missing"  # the weights alone do not fit


def test_weights_that_vllm_makes_smaller_are_not_called_too_large(gpus: Any) -> None:
    gpus(1, 48)
    assert fit.serving("generate", teacher(max_model_len=8192), QWEN3_32B).state == "missing"
    requirement = fit.serving("generate", teacher(max_model_len=8192, quantization="fp8"), QWEN3_32B)
    assert (requirement.state, "vllm.quantization" in requirement.detail) == ("unknown", True)
    two = fit.serving("generate", teacher(tensor_parallel_size=2, quantization="fp8"), QWEN3_32B)
    assert "2 GPUs are needed, 1 are here" in two.detail


def test_without_a_gpu_main_memory_must_hold_the_model() -> None:
    huge = QWEN3_32B.model_copy(update={"weight_bytes": 10**15})
    requirement = fit.serving("generate", teacher(max_model_len=1024), huge)
    assert (requirement.state, "of main memory" in requirement.detail) == ("missing", True)


@pytest.mark.parametrize(
    ("count", "gigabytes", "state"), [(8, 80, "ok"), (8, 10, "missing"), (4, 80, "missing")]
)
def test_training_must_fit_on_each_gpu_of_enough_gpus(
    gpus: Any, count: int, gigabytes: float, state: str, tmp_path: Path
) -> None:
    gpus(count, gigabytes)
    config = tmp_path / "fsdp.yaml"
    config.write_text("distributed_type: FSDP\n")
    train = Train(
        max_length=32_768,
        micro_batch_size=1,
        batch_size=128,
        gradient_checkpointing=True,
        accelerate={"config_file": str(config), "num_processes": 8},
    )
    requirement = fit.training(train, True, QWEN25_7B, None, ())
    assert requirement.state == state, requirement.detail


def test_training_over_nodes_needs_its_share_of_the_gpus_on_each(gpus: Any, tmp_path: Path) -> None:
    gpus(8, 80)
    config = tmp_path / "fsdp.yaml"
    config.write_text("distributed_type: FSDP\n")
    launch = {"config_file": str(config), "num_processes": 16}
    train = Train(max_length=4096, micro_batch_size=1, batch_size=128, accelerate=launch)
    assert fit.training(train, True, QWEN25_7B, None, ()).state == "missing"
    train = train.model_copy(update={"accelerate": launch | {"num_machines": 2}})
    requirement = fit.training(train, True, QWEN25_7B, None, ())
    assert requirement.state == "ok", requirement.detail
    assert "on each of 16 GPUs, 8 a node" in requirement.detail


def test_an_estimate_near_the_limit_is_unknown(gpus: Any) -> None:
    shape = {"max_length": 1024, "micro_batch_size": 1}
    gpus(1, 1000)
    states = []
    for gigabytes in (100, 125, 140, 200):
        gpus(1, gigabytes)
        states.append(fit.training(Train(**shape), True, QWEN25_7B, None, ()).state)
    assert states == sorted(states, key=("missing", "unknown", "ok").index)
    assert set(states) >= {"missing", "ok"}


def test_a_student_with_fewer_layers_is_smaller() -> None:
    whole, half = QWEN25_7B.shape(), QWEN25_7B.shape(Pruning(layers=14))
    assert whole
    assert half
    embeddings = 2 * 152_064 * 3584
    assert half.parameters - embeddings == pytest.approx((whole.parameters - embeddings) / 2, rel=1e-6)


def test_a_student_with_fewer_heads_and_channels_has_the_parameters_of_its_config() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "vocab_size": 64, "head_dim": 8}
    whole = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 24}
    pruning = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16}
    counts = [LlamaForCausalLM(LlamaConfig(**sizes, **each)).num_parameters() for each in (whole, pruning)]
    known = {"parameters": counts[0], "layers": 3, "hidden": 48, "intermediate": 24, "vocabulary": 64}
    facts = ModelFacts(name="x", config=sizes | whole, **known)  # type: ignore[arg-type]
    pruned = facts.shape(Pruning(heads=4, intermediate_size=16))
    assert pruned
    assert (pruned.parameters, pruned.intermediate) == (counts[1], 16)


def test_responses_must_fit_into_the_served_context_and_that_into_the_model() -> None:
    def found(length: int, most: int) -> list[str]:
        student = Student(model="x", vllm={"max_model_len": length})
        known = ModelFacts(name="x", context=32_768)
        return [
            requirement.state for requirement in fit.lengths("evaluate", student, known, most, "max_tokens")
        ]

    assert found(16_384, 8192) == []
    assert found(16_384, 16_384) == ["missing"]
    assert found(65_536, 8192) == ["missing"]


def test_checkpoints_must_fit_on_the_disk(tmp_path: Path) -> None:
    assert fit.disk(tmp_path / "run", 1_000_000, Train()).state == "ok"
    requirement = fit.disk(tmp_path / "run", 10**15, Train())
    assert requirement.state == "missing"
    assert "40000000.0 GB" in requirement.detail  # 3 checkpoints of 12 bytes a parameter, and 4 bytes more


@pytest.mark.parametrize("more", [{"optim": "galore_adamw"}, {"optim": "sgd", "optim_args": "momentum=0.9"}])
def test_what_fits_without_an_optimizer_of_unknown_size_is_unknown(
    more: dict[str, str], gpus: Any, tmp_path: Path
) -> None:
    for gigabytes, state in ((10_000, "unknown"), (10, "missing")):
        gpus(1, gigabytes)
        requirement = fit.training(Train(trl=more), True, QWEN25_7B, None, ())
        assert requirement.state == state
        assert (f"without the state of {more['optim']}" in requirement.detail) == (state == "unknown")
    assert fit.disk(tmp_path, 1_000_000, Train(trl=more)).state == "unknown"


def test_weights_to_download_must_fit_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    small = ModelFacts(name="x", weight_bytes=1000)
    assert fit.download("train", small.model_copy(update={"downloaded": True})) is None
    states = [
        requirement.state if requirement else None
        for size in (1000, 10**18, None)
        if (requirement := fit.download("train", small.model_copy(update={"weight_bytes": size})))
    ]
    assert states == ["ok", "missing", "missing"]
