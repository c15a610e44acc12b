"""How a recipe configures `accelerate launch`: shipped files, rejected settings, precedence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import install_hints
from pipeline.config import Recipe
from pipeline.config.train import KDTeacher
from pipeline.engine.stage import Place
from pipeline.errors import UserError
from pipeline.hardware import has_gpu
from pipeline.train import launcher, objectives
from pipeline.train.launcher import command, environment
from pipeline.train.objectives import teachers
from tests import tiny_student

RECIPES = Path(__file__).resolve().parents[4] / "pipeline" / "recipes"
FSDP2, ZERO3 = str(RECIPES / "fsdp2.yaml"), str(RECIPES / "zero3.yaml")


def complaint(**train: Any) -> str:
    with pytest.raises(UserError) as caught:
        launcher.check(tiny_student.recipe(**train))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_accelerate_reads_the_shipped_config_files() -> None:
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
def test_no_default_overrides_the_recipe_s_config_file(file: str, uses: str, tmp_path: Path) -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    line = command({"config_file": file, "num_processes": 8}, tmp_path / "job.json")
    module = line.index("accelerate.commands.launch")
    assert set(line[module + 1 : line.index("-m", module)]) == {
        "--quiet",
        f"--config_file={file}",
        "--num_processes=8",
    }
    asked = launch.launch_command_parser().parse_args(line[module + 1 :])
    message, _, _ = launch._validate_launch_command(asked)
    assert getattr(message, uses)
    assert (message.num_processes, message.num_machines, message.mixed_precision) == (8, 1, "no")
    if uses == "use_fsdp":
        assert str(message.fsdp_version) == "2"
    else:
        assert message.zero_stage == 3


def test_a_missing_config_file_is_rejected() -> None:
    assert complaint(accelerate={"config_file": "none.yaml"}) == (
        "train.accelerate.config_file = none.yaml: no such file"
    )


@pytest.mark.parametrize("text", ["a: [1", "- 1", "num_processes: 2", "a: &a [*a"])
def test_a_malformed_config_file_is_rejected_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(text)
    assert complaint(accelerate={"config_file": str(tmp_path / "f.yaml")}).startswith(
        f"train.accelerate.config_file = {tmp_path}/f.yaml: "
    )


def test_the_number_of_processes_comes_from_the_recipe_or_its_config_file(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("distributed_type: FSDP\nnum_processes: 4\n")
    file = str(tmp_path / "f.yaml")
    assert launcher.processes({}) == 1
    assert launcher.processes({"config_file": file}) == 4
    assert launcher.processes({"config_file": file, "num_processes": 2}) == 2
    assert "micro_batch_size x processes = 4 x 4" in complaint(
        batch_size=8, micro_batch_size=4, accelerate={"config_file": file}
    )
    assert complaint(accelerate={"config_file": FSDP2}).startswith(
        "train.accelerate.num_processes: set it here"
    )
    for number in (0, "two"):
        assert "must be 1 or more" in complaint(accelerate={"num_processes": number})


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is installed")
@pytest.mark.parametrize("settings", [{"config_file": ZERO3}, {"use_deepspeed": True}])
def test_missing_deepspeed_is_reported_with_an_install_hint(settings: dict[str, Any]) -> None:
    how = install_hints.extra("deepspeed")
    assert complaint(batch_size=16, micro_batch_size=2, accelerate={"num_processes": 8} | settings) == (
        f"train.accelerate: DeepSpeed needs deepspeed, which is not installed: {how}"
    )


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
@pytest.mark.parametrize("settings", [{"config_file": FSDP2}, {"use_fsdp": True}])
def test_fsdp_without_gpus_is_rejected(settings: dict[str, Any]) -> None:
    assert "FSDP needs GPUs" in complaint(micro_batch_size=2, accelerate={"num_processes": 8} | settings)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_of_a_training_on_ray_the_gpus_of_its_nodes_count_and_each_node_looks_again() -> None:
    sharded = tiny_student.recipe(micro_batch_size=2, accelerate={"use_fsdp": True, "num_processes": 8})

    def on_ray(gpus: int) -> Recipe:
        ray = {"train": {"replicas": 2, "gpus": gpus}}
        return Recipe.model_validate(sharded.model_dump() | {"ray": ray})

    launcher.check(on_ray(4))
    for without in (on_ray(0), launcher.placed(on_ray(4), Place(2, 0, "10.0.0.1", 29500, gpus=4))):
        with pytest.raises(UserError, match="FSDP needs GPUs"):
            launcher.check(without)


def test_settings_that_need_logprobs_are_checked_before_sampling() -> None:
    assert "generate.logprobs = true" in complaint(weight_by="confidence")


REMOTE = {"model": "m", "base_url": "http://127.0.0.1:1/v1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": REMOTE, "beta": 0.5}, "set beta to 0 or 1, and temperature to 1"),
        ({"temperature": 0.9}, "set beta to 0 or 1, and temperature to 1"),  # the recipe's teacher has a URL
        ({"teacher": {"model": "m", "serve": "vllm"}}, "give base_url, or name a model to load here"),
        ({"sampler_url": "http://127.0.0.1:1"}, 'no effect without sampler = "vllm"'),
    ],
)
def test_settings_of_on_policy_are_checked(settings: dict[str, Any], message: str) -> None:
    assert message in complaint(objective="on_policy", on_policy=settings)


def test_sampling_by_vllm_in_the_process_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "has_gpu", lambda: False)
    message = complaint(objective="on_policy", on_policy={"sampler": "vllm"})
    assert "needs a GPU, and there is none: vLLM on a CPU takes no new weights" in message
    served = {"sampler": "vllm", "sampler_url": "http://127.0.0.1:1"}
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    assert "needs vllm, which is not installed" in complaint(objective="on_policy", on_policy=served)


CHAT = {"kind": "chat", "name": "a", "path": "a.jsonl", "count": 5}
PLAIN = {"kind": "plain", "share": 0.2}


@pytest.mark.parametrize(
    ("train", "select", "message"),
    [
        ({"objective": "redi"}, {}, "set select.rejected = true"),
        ({"objective": "dpo"}, {}, "set select.rejected = true"),
        ({"objective": "dpo", "packing": True}, {"rejected": True}, "train.packing has no effect"),
        ({"objective": "redi", "weight_by": "confidence"}, {"rejected": True}, "weight_by has no effect"),
        ({"objective": "on_policy"}, {"mix": [PLAIN]}, "learns from prompts alone: remove select.mix"),
        ({"order": "easy_first"}, {"mix": [CHAT]}, "chat examples have no pass rate"),
    ],
)
def test_settings_that_mixed_examples_or_pairs_cannot_have_are_rejected(
    train: dict[str, Any], select: dict[str, Any], message: str
) -> None:
    recipe = tiny_student.recipe(**{"on_policy": {"teacher": "org/other"}} | train)
    recipe = recipe.model_validate(recipe.model_dump() | {"select": select})
    with pytest.raises(UserError, match=message):
        launcher.check(recipe)


def test_the_recipe_sets_the_number_of_processes_on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = tiny_student.job(tmp_path, "m")
    assert "--num_processes=1" in command({}, tmp_path / "job.json")
    assert environment(job)["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert environment(job)["CUDA_VISIBLE_DEVICES"] == "3"
    several = {"num_processes": 2}
    assert {"--multi_gpu", "--num_processes=2"} <= set(command(several, tmp_path / "job.json"))
    job = tiny_student.job(tmp_path, "m", accelerate=several)
    assert environment(job)["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_the_machine_s_accelerate_config_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    line = command({}, tmp_path / "job.json")
    theirs = launch.launch_command_parser().parse_args(line[line.index("accelerate.commands.launch") + 1 :])
    args, *_ = launch._validate_launch_command(theirs)
    assert [args.use_fsdp, args.use_deepspeed, args.multi_gpu] == [False] * 3
    assert args.config_file.endswith("plain.yaml")


@pytest.mark.parametrize(
    "settings", [{"order": "easy_first"}, {"weight_by": "confidence"}, {"packing": True}], ids=str
)
def test_settings_without_effect_on_policy_are_rejected(settings: dict[str, Any]) -> None:
    assert f"train.{next(iter(settings))} has no effect" in complaint(objective="on_policy", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"features": {}},
            "train.features needs the teacher's weights, and 'teacher' is reached at a base_url: ",
        ),
        ({"term_teacher": "m"}, "train.term_teacher has no effect without one of the tables features, "),
        (
            {"relations": {}, "term_teacher": "m", "objective": "on_policy", "on_policy": {"teacher": "m"}},
            "train.relations cannot be added to train.objective = 'on_policy'",
        ),
        (
            {
                "features": {},
                "term_teacher": "m",
                "objective": "logit_kd",
                "logit_kd": {"teachers": [{"model": "m"}]},
            },
            "train.term_teacher has no effect with train.objective = 'logit_kd'",
        ),
        (
            {"relations": {}, "term_teacher": "m", "micro_batch_size": 1},
            "train.relations compares the examples of one micro batch: 1 on 1 device(s), at least 3",
        ),
    ],
    ids=str,
)
def test_white_box_terms_that_cannot_work_are_rejected(settings: dict[str, Any], message: str) -> None:
    assert message in complaint(**settings)


def test_white_box_terms_name_their_teacher() -> None:
    assert teachers(tiny_student.recipe(features={}, term_teacher="m")) == (KDTeacher(model="m"),)
    named = {"objective": "logit_kd", "logit_kd": {"teachers": [{"model": "a"}, {"model": "b"}]}}
    assert [t.model for t in teachers(tiny_student.recipe(relations={}, **named))] == ["a", "b"]
    assert teachers(tiny_student.recipe()) == ()


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_4_bits_without_a_gpu_are_rejected() -> None:
    assert complaint(lora={"quantize": "nf4"}) == 'train.lora.quantize = "nf4" needs a GPU, and there is none'


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_an_8_bit_optimizer_needs_a_gpu_and_its_package_and_no_sharding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: False)
    assert complaint(optimizer=name) == f'train.optimizer = "{name}" needs a GPU, and there is none'
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "needs bitsandbytes, which is not installed" in complaint(optimizer=name)
    sharded = {"config_file": FSDP2, "num_processes": 8}
    assert "cannot shard its state" in complaint(optimizer=name, micro_batch_size=2, accelerate=sharded)
    monkeypatch.setattr(launcher, "has_gpu", lambda: False)
    assert complaint(trl={"optim": name}) == f'train.trl.optim = "{name}" needs a GPU, and there is none'


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("flash_attention_2", "flash-attn or kernels"),
        ("flash_attention_3", "flash-attn-3 or kernels"),
        ("flash_attention_4", "flash-attn-4"),
        ("kernels-community/flash-attn3", "kernels"),
    ],
)
def test_an_attention_that_is_not_installed_is_rejected_before_any_work(
    name: str, needs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    message = complaint(attention=name)
    assert message.startswith(
        f'train.attention = "{name}" needs {needs}, which is not installed; install it, or'
    )
    assert "remove the line" in message
    monkeypatch.setattr(launcher, "has_gpu", lambda: False)
    assert complaint(attention=name).startswith(f'train.attention = "{name}" needs a GPU')


def test_an_unknown_attention_is_rejected_and_a_built_in_one_is_not() -> None:
    assert "is none of sdpa, eager, flex_attention, flash_attention_2" in complaint(attention="flash")
    for name in (None, "sdpa", "eager"):
        launcher.check(tiny_student.recipe(attention=name))


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_several_processes_start_without_gpus(tmp_path: Path) -> None:
    line = command({"num_processes": 2}, tmp_path / "job.json")
    assert {"--multi_gpu", "--num_processes=2", "--main_process_port=0"} <= set(line)
    assert "--cpu" not in line  # with it accelerate silently starts one
    assert "--cpu" in command({}, tmp_path / "job.json")
