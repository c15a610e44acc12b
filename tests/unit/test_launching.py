"""What a recipe asks of `accelerate launch`: files that ship, what is refused, what is not overridden."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import install_hints
from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.hardware import has_gpu
from pipeline.train import launcher
from pipeline.train.job import TrainJob
from pipeline.train.launcher import command, environment
from tests import tiny_student

RECIPES = Path(__file__).resolve().parents[2] / "pipeline" / "recipes"
FSDP2, ZERO3 = str(RECIPES / "fsdp2.yaml"), str(RECIPES / "zero3.yaml")


def complaint(**train: Any) -> str:
    with pytest.raises(UserError) as caught:
        launcher.check(tiny_student.recipe(**train))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_accelerate_takes_the_files_that_ship() -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    sharded = config_args.load_config_from_file(FSDP2)
    assert (sharded.distributed_type, sharded.num_machines, sharded.mixed_precision) == ("FSDP", 1, "no")
    assert sharded.fsdp_config["fsdp_version"] == 2
    assert sharded.fsdp_config["fsdp_reshard_after_forward"] is True
    assert sharded.fsdp_config["fsdp_cpu_ram_efficient_loading"] is True
    zero = config_args.load_config_from_file(ZERO3)
    assert (zero.distributed_type, zero.num_machines, zero.mixed_precision) == ("DEEPSPEED", 1, "no")
    assert (zero.deepspeed_config["zero_stage"], zero.deepspeed_config["zero3_save_16bit_model"]) == (3, True)


@pytest.mark.parametrize(("file", "uses"), [(FSDP2, "use_fsdp"), (ZERO3, "use_deepspeed")])
def test_the_launcher_reads_the_file_and_nothing_of_ours_overrides_it(
    file: str, uses: str, tmp_path: Path
) -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    line = command({"config_file": file, "num_processes": 8}, tmp_path / "job.json")
    module = line.index("accelerate.commands.launch")
    assert set(line[module + 1 : line.index("-m", module)]) == {
        "--quiet",
        f"--config_file={file}",
        "--num_processes=8",
    }
    asked = launch.launch_command_parser().parse_args(line[module + 1 :])
    told, _, _ = launch._validate_launch_command(asked)
    assert getattr(told, uses)
    assert (told.num_processes, told.num_machines, told.mixed_precision) == (8, 1, "no")
    if uses == "use_fsdp":
        assert str(told.fsdp_version) == "2"
    else:
        assert told.zero_stage == 3


def test_a_file_that_is_not_there_is_refused() -> None:
    assert complaint(accelerate={"config_file": "none.yaml"}) == (
        "train.accelerate.config_file = none.yaml: no such file"
    )


@pytest.mark.parametrize("text", ["a: [1", "- 1", "num_processes: 2", "a: &a [*a"])
def test_a_file_that_accelerate_would_not_take_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(text)
    assert complaint(accelerate={"config_file": str(tmp_path / "f.yaml")}).startswith(
        f"train.accelerate.config_file = {tmp_path}/f.yaml: "
    )


def test_how_many_processes_is_said_by_the_recipe_or_else_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("distributed_type: FSDP\nnum_processes: 4\n")
    file = str(tmp_path / "f.yaml")
    assert launcher.processes({}) == 1
    assert launcher.processes({"config_file": file}) == 4
    assert launcher.processes({"config_file": file, "num_processes": 2}) == 2
    assert "micro_batch_size x processes = 4 x 4" in complaint(
        batch_size=8, micro_batch_size=4, accelerate={"config_file": file}
    )
    assert complaint(accelerate={"config_file": FSDP2}).startswith(
        "train.accelerate.num_processes: how many?"
    )
    for number in (0, "two"):
        assert "a number from 1 on" in complaint(accelerate={"num_processes": number})


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is installed")
@pytest.mark.parametrize("said", [{"config_file": ZERO3}, {"use_deepspeed": True}])
def test_deepspeed_that_is_not_installed_is_named_with_the_way_to_get_it(said: dict[str, Any]) -> None:
    how = install_hints.extra("deepspeed")
    assert complaint(batch_size=16, micro_batch_size=2, accelerate={"num_processes": 8} | said) == (
        f"train.accelerate: DeepSpeed needs deepspeed, which is not installed: {how}"
    )


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
@pytest.mark.parametrize("said", [{"config_file": FSDP2}, {"use_fsdp": True}])
def test_sharding_where_accelerate_would_not_shard_is_refused(said: dict[str, Any]) -> None:
    assert "FSDP needs GPUs" in complaint(micro_batch_size=2, accelerate={"num_processes": 8} | said)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"objective": "topk_kd"}, "generate.logprobs = 20"),
        ({"weight_by": "confidence"}, "generate.logprobs = 0"),
    ],
)
def test_what_needs_log_probabilities_says_so_before_the_teacher_is_asked(
    said: dict[str, Any], told: str
) -> None:
    assert told in complaint(**said)


def test_on_gpus_as_many_processes_train_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = TrainJob(
        model="m", examples=(), output=tmp_path / "o", checkpoints=tmp_path / "c", train=Train(), seed=0
    )
    assert "--num_processes=1" in command({}, tmp_path / "job.json")
    assert environment(job)["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert environment(job)["CUDA_VISIBLE_DEVICES"] == "3"
    several = {"num_processes": 2}
    assert {"--multi_gpu", "--num_processes=2"} <= set(command(several, tmp_path / "job.json"))
    job = job.model_copy(update={"train": Train(accelerate=several)})
    assert environment(job)["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_what_accelerate_config_left_on_the_machine_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    line = command({}, tmp_path / "job.json")
    theirs = launch.launch_command_parser().parse_args(line[line.index("accelerate.commands.launch") + 1 :])
    args, *_ = launch._validate_launch_command(theirs)
    assert [args.use_fsdp, args.use_deepspeed, args.multi_gpu] == [False] * 3
    assert args.config_file.endswith("plain.yaml")


@pytest.mark.parametrize(
    "said", [{"order": "easy_first"}, {"weight_by": "confidence"}, {"packing": True}], ids=str
)
def test_what_plays_no_part_on_policy_is_refused(said: dict[str, Any]) -> None:
    assert f"train.{next(iter(said))} plays no part" in complaint(objective="on_policy", **said)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_four_bits_without_a_gpu_are_refused() -> None:
    assert complaint(lora={"quantize": "nf4"}) == 'train.lora.quantize = "nf4" needs a GPU, and there is none'


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_an_optimizer_in_8_bits_needs_a_gpu_and_its_package_and_is_not_sharded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: False)
    assert complaint(optimizer=name) == f'train.optimizer = "{name}" needs a GPU, and there is none'
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "needs bitsandbytes, which is not installed" in complaint(optimizer=name)
    sharded = {"config_file": FSDP2, "num_processes": 8}
    assert "cannot share its state out" in complaint(optimizer=name, micro_batch_size=2, accelerate=sharded)


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("flash_attention_2", "flash-attn or kernels"),
        ("flash_attention_3", "flash-attn-3 or kernels"),
        ("flash_attention_4", "flash-attn-4"),
        ("kernels-community/flash-attn3", "kernels"),
    ],
)
def test_an_attention_that_is_not_installed_is_refused_before_any_work(
    name: str, needs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    told = complaint(attention=name)
    assert told.startswith(
        f'train.attention = "{name}" needs {needs}, which is not installed; install it, or'
    )
    assert "leave the line out" in told
    monkeypatch.setattr(launcher, "has_gpu", lambda: False)
    assert complaint(attention=name).startswith(f'train.attention = "{name}" needs a GPU')


def test_an_attention_that_nobody_knows_is_refused_and_one_that_needs_nothing_is_not() -> None:
    assert "is none of sdpa, eager, flex_attention, flash_attention_2" in complaint(attention="flash")
    for name in (None, "sdpa", "eager"):
        launcher.check(tiny_student.recipe(attention=name))


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_several_processes_really_are_several(tmp_path: Path) -> None:
    line = command({"num_processes": 2}, tmp_path / "job.json")
    assert {"--multi_gpu", "--num_processes=2", "--main_process_port=0"} <= set(line)
    assert "--cpu" not in line  # with which accelerate starts one, and says nothing
    assert "--cpu" in command({}, tmp_path / "job.json")
