"""How the training is started: what the recipe asks of `accelerate launch`, looked at before any work.

Leaves out what accelerate makes of a file's settings.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline import install_hints
from pipeline.config import Recipe
from pipeline.config.base import Scalar
from pipeline.config.training import KDTeacher, Train
from pipeline.errors import UserError
from pipeline.hardware import cores, has_gpu
from pipeline.train.job import TrainJob

_PLAIN = Path(__file__).parents[1] / "recipes" / "plain.yaml"
BUILT_IN = ("sdpa", "eager", "flex_attention")  # attention as transformers names it
FLASH = {  # and what each of these is installed by
    "flash_attention_2": ("flash-attn", "kernels"),
    "flash_attention_3": ("flash-attn-3", "kernels"),
    "flash_attention_4": ("flash-attn-4",),
}
_ARGUMENT = re.compile(r"[a-z][a-z0-9_-]*")


def check(recipe: Recipe) -> None:
    """Find the mistakes that need no work. Raises UserError."""
    train = recipe.train
    _check_on_policy(train)
    _check_logprobs(recipe)
    for name in train.accelerate:
        if not _ARGUMENT.fullmatch(name):
            raise UserError(f"train.accelerate.{name}: write arguments like num_processes = 8")
    at_once = train.micro_batch_size * processes(train.accelerate)
    if train.batch_size % at_once:
        raise UserError(
            f"train.batch_size = {train.batch_size} is no multiple of micro_batch_size x processes = "
            f"{train.micro_batch_size} x {at_once // train.micro_batch_size}"
        )
    _check_sharding(train)
    _check_bitsandbytes(train)
    _check_attention(train)
    for tracker in train.trackers:
        if importlib.util.find_spec(tracker) is None:
            how = install_hints.package(tracker)
            raise UserError(f"train.trackers names {tracker}, which is not installed: {how}")
    teachers(recipe)


def _check_sharding(train: Train) -> None:
    how = sharding(train.accelerate)
    if how == "DEEPSPEED":
        _need("deepspeed", "train.accelerate: DeepSpeed", "deepspeed")
    elif how == "FSDP" and not has_gpu():
        # accelerate 1.15 would say nothing, and give every process the whole model
        raise UserError("train.accelerate: FSDP needs GPUs, and there is none; num_processes works without")


def _check_bitsandbytes(train: Train) -> None:
    """What computes in 8 or 4 bits needs a GPU and the package, and cannot be spread over processes."""
    wanted = [f'train.optimizer = "{train.optimizer}"'] if "8bit" in train.optimizer else []
    if wanted and sharding(train.accelerate):
        raise UserError(
            f"{wanted[0]}: bitsandbytes cannot share its state out over processes; leave the line out: FSDP "
            "and DeepSpeed spread the usual optimizer's"
        )
    if train.lora is not None and train.lora.quantize is not None:
        wanted.append(f'train.lora.quantize = "{train.lora.quantize}"')
    for what in wanted:
        if not has_gpu():
            raise UserError(f"{what} needs a GPU, and there is none")
        _need("bitsandbytes", what, "qlora")


def _check_attention(train: Train) -> None:
    """What the recipe names is there: transformers would find out when the traces have been paid for."""
    name = train.attention
    if name is None or name in BUILT_IN:
        return
    told = f'train.attention = "{name}"'
    instead = "or leave the line out: PyTorch's own attention needs nothing, also for packing"
    if name not in FLASH and "/" not in name:
        raise UserError(f"{told} is none of {', '.join((*BUILT_IN, *FLASH))}; {instead}")
    if not has_gpu():
        raise UserError(f"{told} needs a GPU, and there is none; leave the line out")
    packages = FLASH.get(name, ("kernels",))  # another name is one of the hub's kernels
    if not any(_distributed(package) for package in packages):
        raise UserError(
            f"{told} needs {' or '.join(packages)}, which is not installed; install it, {instead}"
        )


def _distributed(package: str) -> bool:
    """Whether the distribution is installed; modules of several share a name."""
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _check_logprobs(recipe: Recipe) -> None:
    """What learns from the teacher's log-probabilities needs them to have been kept."""
    kept = recipe.generate.logprobs
    if recipe.train.objective == "topk_kd" and not kept:
        raise UserError(
            "train.objective = 'topk_kd' learns from stored candidates: set generate.logprobs = 20"
        )
    if kept is None and recipe.train.weight_by == "confidence":
        raise UserError("train.weight_by = 'confidence' needs generate.logprobs = 0 or more")


def _check_on_policy(train: Train) -> None:
    """The student's own answers have no teacher's confidence, and TRL shuffles and pads them."""
    usual = Train()
    for name in ("order", "weight_by", "packing"):
        if train.objective == "on_policy" and getattr(train, name) != getattr(usual, name):
            raise UserError(f"train.{name} plays no part in train.objective = 'on_policy': leave it out")


def processes(arguments: Mapping[str, Scalar]) -> int:
    """How many processes train: as the recipe says, or else the file that it names, or else one."""
    number = arguments.get("num_processes", settings(arguments).get("num_processes"))
    if number is None and "config_file" in arguments:
        raise UserError("train.accelerate.num_processes: how many? Neither the recipe nor its file says it")
    if number is not None and (not isinstance(number, int) or number < 1):
        raise UserError(f"train.accelerate.num_processes = {number}: a number from 1 on")
    return number or 1


def sharding(arguments: Mapping[str, Scalar]) -> Literal["FSDP", "DEEPSPEED"] | None:
    """By what the weights are spread over the processes, None where each holds them whole."""
    said = settings(arguments).get("distributed_type")
    if said == "DEEPSPEED" or arguments.get("use_deepspeed"):
        return "DEEPSPEED"
    return "FSDP" if said == "FSDP" or arguments.get("use_fsdp") else None


def settings(arguments: Mapping[str, Scalar]) -> dict[str, Any]:
    """What stands in the file that the recipe names, {} without one. Raises UserError."""
    if "config_file" not in arguments:
        return {}
    import yaml  # JSON is YAML too

    file = str(arguments["config_file"])
    if not os.path.isfile(file):
        raise UserError(f"train.accelerate.config_file = {file}: no such file")
    try:
        said = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise UserError(f"train.accelerate.config_file = {file}: {' '.join(str(e).split())}") from None
    if not isinstance(said, dict) or "distributed_type" not in said:
        raise UserError(
            f"train.accelerate.config_file = {file}: no distributed_type: in it, as accelerate wants"
        )
    return said


def _need(package: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs {package}, which is not installed: {install_hints.extra(extra)}")


def teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    """The models that have to be at hand while the student is trained, as the objective wants them.

    Raises UserError where the recipe names none that could be: a hosted one says only what it is asked.
    """
    train = recipe.train
    if train.objective not in ("logit_kd", "on_policy"):
        return ()
    if train.objective == "logit_kd" and train.logit_kd.teachers:
        return train.logit_kd.teachers
    if train.objective == "on_policy" and train.on_policy.teacher:
        return (KDTeacher(model=train.on_policy.teacher),)
    for teacher in recipe.teacher:
        if teacher.serve is None:
            raise UserError(
                f"train.objective = {train.objective!r} needs the teacher's weights beside the student, and "
                f"{teacher.display_name!r} is reached at a base_url: name a model in train.{train.objective}"
            )
    if train.objective == "on_policy" and len(recipe.teacher) > 1:
        raise UserError("train.objective = 'on_policy' has one teacher: name it as train.on_policy.teacher")
    return tuple(KDTeacher(model=teacher.model) for teacher in recipe.teacher)


def command(arguments: Mapping[str, Scalar], job_file: Path) -> list[str]:
    """The command line: one process turns the examples into tokens, then becomes accelerate's launcher.

    `num_processes = 8` becomes --num_processes=8, `x = true` becomes --x.
    Where the recipe names a file of settings nothing of ours overrides it.
    """
    ours: dict[str, Scalar] = {"quiet": True}
    if "config_file" not in arguments:
        # Said in full, so that accelerate neither guesses, nor warns, nor reads what `accelerate config` left
        # here; precision is the training's own to set.
        ours |= {
            "config_file": str(_PLAIN),
            "num_machines": 1,
            "mixed_precision": "no",
            "dynamo_backend": "no",
        }
        ours |= _on_gpus(processes(arguments)) if has_gpu() else _on_cpu(processes(arguments))
    line = [sys.executable, "-P", "-m", "accelerate.commands.launch"]
    for name, value in (ours | dict(arguments)).items():
        if value is not False:
            line.append(f"--{name}" if value is True else f"--{name}={value}")
    prepare = [sys.executable, "-P", "-m", "pipeline.train.trainer.prepare", str(job_file)]
    return [*prepare, *line, "-m", "pipeline.train.trainer.launch", str(job_file)]


def _on_gpus(processes: int) -> dict[str, Scalar]:
    """As many as the recipe says: accelerate's own answer is one for each GPU that is there."""
    several: dict[str, Scalar] = {"multi_gpu": True} if processes > 1 else {}
    return several | {"num_processes": processes}


def _on_cpu(processes: int) -> dict[str, Scalar]:
    """With --cpu accelerate starts one process, however many it is asked for."""
    several: dict[str, Scalar] = {"multi_gpu": True, "main_process_port": 0}  # 0: any free one
    how: dict[str, Scalar] = several if processes > 1 else {"cpu": True}
    threads = max(1, len(cores()) // processes)
    return how | {"num_processes": processes, "num_cpu_threads_per_process": threads}


def environment(todo: TrainJob) -> dict[str, str]:
    """Ours, under what is set in the environment. Models that are here need no network."""
    ours = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1", "WANDB_PROJECT": "retort"}
    ours["PYTHONSAFEPATH"] = "1"  # the processes it starts, too, find no module of the folder we run in
    ours["TENSORBOARD_LOGGING_DIR"] = str(todo.output.parent / "tensorboard")
    if all(os.path.isdir(model) for model in (todo.model, *(teacher.model for teacher in todo.teachers))):
        ours["HF_HUB_OFFLINE"] = "1"
    found = ours | dict(os.environ)
    if has_gpu() and processes(todo.train.accelerate) == 1:
        # With more in sight one process would spread each batch over all of them (DataParallel).
        found["CUDA_VISIBLE_DEVICES"] = found.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return found
