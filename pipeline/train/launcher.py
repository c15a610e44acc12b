"""The command that starts a training, and the checks of the recipe's settings for it.

Trainings run under `accelerate launch`. Leaves out what accelerate makes of a config file's settings.
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

from pipeline import install_hints, shipped
from pipeline.config import Recipe
from pipeline.config.base import Scalar
from pipeline.config.cluster import Ray
from pipeline.config.train import Train
from pipeline.engine.stage import Place
from pipeline.errors import UserError
from pipeline.hardware import cores, has_gpu
from pipeline.inference import model_files
from pipeline.train import nodes
from pipeline.train.job import TrainJob
from pipeline.train.nodes import Nodes
from pipeline.train.objectives import OBJECTIVES, check_relations, teachers

_PLAIN = shipped.RECIPES / "plain.yaml"
BUILT_IN = ("sdpa", "eager", "flex_attention")  # attention implementations, as transformers names them
FLASH = {  # and the packages that provide these
    "flash_attention_2": ("flash-attn", "kernels"),
    "flash_attention_3": ("flash-attn-3", "kernels"),
    "flash_attention_4": ("flash-attn-4",),
}
_ARGUMENT = re.compile(r"[a-z][a-z0-9_-]*")


def check(recipe: Recipe) -> None:
    """Checks everything that can be known before any work. Raises UserError."""
    train = recipe.train
    OBJECTIVES[train.objective].check(recipe)
    _check_mix(recipe)
    _check_precision(train)
    if train.weight_by == "confidence":
        recipe.check_logprobs("train.weight_by = 'confidence'")
    for name in train.accelerate:
        if not _ARGUMENT.fullmatch(name):
            raise UserError(f"train.accelerate.{name}: write arguments like num_processes = 8")
    together = processes_of(recipe)
    accumulation_steps(train, together)
    nodes = recipe.ray.train
    gpu = has_gpu() if nodes is None else nodes.gpus > 0  # each node looks at its own again
    _check_sharding(train, gpu)
    _check_beside(train, bool(teachers(recipe)))
    _check_bitsandbytes(train, gpu)
    _check_attention(train, gpu)
    for tracker in train.trackers:
        if importlib.util.find_spec(tracker) is None:
            hint = install_hints.package(tracker)
            raise UserError(f"train.trackers names {tracker}, which is not installed: {hint}")
    check_relations(train, together)


def _check_mix(recipe: Recipe) -> None:
    """Refuses settings that need what mixed examples lack. Raises UserError."""
    train, select = recipe.train, recipe.select
    if select.mix and train.objective in ("topk_kd", "on_policy"):
        needs = "soft labels of every token" if train.objective == "topk_kd" else "prompts alone"
        raise UserError(f"train.objective = {train.objective!r} learns from {needs}: remove select.mix")
    if select.chats and train.order != "shuffled":
        raise UserError(f"train.order = {train.order!r}: chat examples have no pass rate and no token count")
    if select.chats and train.weight_by:
        raise UserError(f"train.weight_by = {train.weight_by!r}: chat examples have no confidence")


def accumulation_steps(train: Train, processes: int) -> int:
    """Micro batches per process and optimizer step. Raises UserError when they do not fill the batch."""
    steps, rest = divmod(train.batch_size, train.micro_batch_size * processes)
    if rest:
        raise UserError(
            f"train.batch_size = {train.batch_size} is not a multiple of micro_batch_size x processes = "
            f"{train.micro_batch_size} x {processes}"
        )
    return steps


def _check_precision(train: Train) -> None:
    """accelerate would compute in its own format wherever train.precision does not ask for bfloat16."""
    name, given = "mixed_precision", train.accelerate
    found = given.get(name, accelerate_config(given).get(name))
    if found not in (None, False, "no"):  # YAML reads a bare no as False
        raise UserError(f'train.accelerate: {name} = {found}: set it to "no"; train.precision decides')


def _check_sharding(train: Train, gpu: bool) -> None:
    framework = sharding(train.accelerate)
    if framework == "DEEPSPEED":
        _require("deepspeed", "train.accelerate: DeepSpeed", "deepspeed")
    elif framework == "FSDP" and not gpu:
        # Without GPUs accelerate 1.15 silently gives every process the whole model.
        raise UserError("train.accelerate: FSDP needs GPUs, and there is none; num_processes works without")


def _check_beside(train: Train, teachers: bool) -> None:
    """Refuses what the training would refuse too, but only after the traces were paid for."""
    quantized = train.lora is not None and train.lora.quantize is not None
    what = "a teacher next to the student" if teachers else "the weights of train.lora.quantize"
    if (teachers or quantized) and zero_stage(train.accelerate) == 3:
        raise UserError(f"train.accelerate: ZeRO-3 cannot shard {what}: remove one")
    table = accelerate_config(train.accelerate).get("fsdp_config") or {}
    version = train.accelerate.get("fsdp_version", table.get("fsdp_version", 1))  # 1: accelerate's default
    if teachers and sharding(train.accelerate) == "FSDP" and str(version) != "2":
        raise UserError(f"train.accelerate: {what} needs fsdp_version: 2")


def _check_bitsandbytes(train: Train, gpu: bool) -> None:
    """8-bit and 4-bit computation needs a GPU and bitsandbytes; its optimizers cannot be sharded."""
    name, setting = train.used_optimizer, "train.trl.optim" if "optim" in train.trl else "train.optimizer"
    used = [f'{setting} = "{name}"'] if "8bit" in name and "torch" not in name else []
    if used and sharding(train.accelerate):
        raise UserError(
            f"{used[0]}: bitsandbytes cannot shard its state; remove the line: FSDP and DeepSpeed shard the "
            "default optimizer's"
        )
    if train.lora is not None and train.lora.quantize is not None:
        used.append(f'train.lora.quantize = "{train.lora.quantize}"')
    for setting in used:
        if not gpu:
            raise UserError(f"{setting} needs a GPU, and there is none")
        _require("bitsandbytes", setting, "qlora")


def _check_attention(train: Train, gpu: bool) -> None:
    """Checks that the attention is installed: transformers would fail only after the traces were paid for."""
    name = train.attention
    if name is None or name in BUILT_IN:
        return
    setting = f'train.attention = "{name}"'
    instead = "or remove the line: PyTorch's own attention needs no package, also for packing"
    if name not in FLASH and "/" not in name:
        raise UserError(f"{setting} is none of {', '.join((*BUILT_IN, *FLASH))}; {instead}")
    if not gpu:
        raise UserError(f"{setting} needs a GPU, and there is none; remove the line")
    packages = FLASH.get(name, ("kernels",))  # a name with a slash is a kernel on the hub
    if not any(_installed(package) for package in packages):
        raise UserError(
            f"{setting} needs {' or '.join(packages)}, which is not installed; install it, {instead}"
        )


def _installed(distribution: str) -> bool:
    """Whether the distribution is installed; several of them provide modules of the same name."""
    try:
        return bool(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


def _require(package: str, needed_by: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{needed_by} needs {package}, which is not installed: {install_hints.extra(extra)}")


def processes(arguments: Mapping[str, Scalar]) -> int:
    """The training processes of all nodes: the recipe's number, else its accelerate file's, else 1 a node."""
    number = arguments.get("num_processes", accelerate_config(arguments).get("num_processes"))
    if number is None and "config_file" in arguments:
        raise UserError("train.accelerate.num_processes: set it here or in the accelerate config file")
    if number is not None and (not isinstance(number, int) or number < 1):
        raise UserError(f"train.accelerate.num_processes = {number}: must be 1 or more")
    machines = nodes.machines(_of_nodes(arguments))
    if number is not None and number % machines:
        raise UserError(f"train.accelerate.num_processes = {number} is not a multiple of {machines} nodes")
    return number or machines


def processes_of(recipe: Recipe) -> int:
    """The training processes; with [ray] train, those of its machines."""
    if (table := recipe.ray.train) is not None:
        recipe = placed(recipe, Place(table.replicas or 1, 0, "", 0, int(table.gpus)))
    return processes(recipe.train.accelerate)


def processes_per_node(arguments: Mapping[str, Scalar]) -> int:
    """The number of training processes on each node."""
    return processes(arguments) // nodes.machines(_of_nodes(arguments))


def placement(arguments: Mapping[str, Scalar]) -> Nodes:
    """Where this process is among the nodes, as srun or the recipe says. Raises UserError."""
    return nodes.find(_of_nodes(arguments))


def placed(recipe: Recipe, place: Place) -> Recipe:
    """The recipe for one of several nodes, with a process for each GPU unless it says how many."""
    arguments: dict[str, Scalar] = {"num_processes": place.count * max(1, place.gpus)}
    arguments |= recipe.train.accelerate
    if place.count > 1:
        arguments |= Nodes(place.count, place.rank, place.host, place.port).arguments
    train = recipe.train.model_copy(update={"accelerate": arguments})
    return recipe.model_copy(update={"train": train, "ray": Ray()})


def _of_nodes(arguments: Mapping[str, Scalar]) -> dict[str, Any]:
    """The arguments with those that srun and the accelerate file add. Raises UserError."""
    step = nodes.of_slurm(os.environ)
    asked, started = arguments.get("num_machines"), step.get("num_machines")
    if asked is not None and started is not None and asked != started:
        raise UserError(f"train.accelerate.num_machines = {asked}, but srun started it on {started} nodes")
    return accelerate_config(arguments) | step | dict(arguments)


def sharding(arguments: Mapping[str, Scalar]) -> Literal["FSDP", "DEEPSPEED"] | None:
    """The framework that shards the weights over the processes; None where each process holds them whole."""
    distributed = accelerate_config(arguments).get("distributed_type")
    if distributed == "DEEPSPEED" or arguments.get("use_deepspeed"):
        return "DEEPSPEED"
    return "FSDP" if distributed == "FSDP" or arguments.get("use_fsdp") else None


def zero_stage(arguments: Mapping[str, Scalar]) -> int | None:
    """The stage of DeepSpeed's ZeRO; None without DeepSpeed, or where a file of its own has the stage."""
    table = accelerate_config(arguments).get("deepspeed_config") or {}
    found = str(arguments.get("zero_stage", table.get("zero_stage")))
    return int(found) if sharding(arguments) == "DEEPSPEED" and found.isdecimal() else None


def accelerate_config(arguments: Mapping[str, Scalar]) -> dict[str, Any]:
    """The content of the recipe's accelerate config file, {} without one. Raises UserError."""
    if "config_file" not in arguments:
        return {}
    import yaml  # JSON is YAML too

    file = _config_file(arguments)
    if not os.path.isfile(file):
        raise UserError(f"train.accelerate.config_file = {file}: no such file")
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise UserError(f"train.accelerate.config_file = {file}: {' '.join(str(e).split())}") from None
    if not isinstance(content, dict) or "distributed_type" not in content:
        raise UserError(f"train.accelerate.config_file = {file}: accelerate requires distributed_type: in it")
    return content


def _config_file(arguments: Mapping[str, Scalar]) -> str:
    return str(shipped.find(str(arguments["config_file"])))


def command(arguments: Mapping[str, Scalar], job_file: Path) -> list[str]:
    """The command line: prepare.py tokenizes the examples, then replaces itself by accelerate's launcher.

    `num_processes = 8` becomes --num_processes=8, `x = true` becomes --x. The recipe's arguments replace the
    defaults; with a config file of its own there are no defaults except --quiet. Only node 0 tokenizes.
    """
    defaults: dict[str, Scalar] = {"quiet": True}
    if "config_file" in arguments:
        arguments = {**arguments, "config_file": _config_file(arguments)}
    else:
        # Everything is set, so that accelerate neither guesses, nor warns, nor reads what `accelerate config`
        # left on this machine. Mixed precision is set by the training itself.
        number = processes(arguments)
        defaults |= {"config_file": str(_PLAIN), "num_machines": 1, "num_processes": number}
        defaults |= {"mixed_precision": "no", "dynamo_backend": "no"}
        defaults |= _device_arguments(number, processes_per_node(arguments))
    launch = [sys.executable, "-P", "-m", "accelerate.commands.launch"]
    for name, value in (defaults | dict(arguments)).items():
        if value is not False:
            launch.append(f"--{name}" if value is True else f"--{name}={value}")
    launch += ["-m", "pipeline.train.trainer.launch", str(job_file)]
    if arguments.get("machine_rank"):
        return launch
    return [sys.executable, "-P", "-m", "pipeline.train.trainer.prepare", str(job_file), *launch]


def _device_arguments(processes: int, on_this_node: int) -> dict[str, Scalar]:
    """On CPUs --multi_gpu too starts several processes: with --cpu accelerate starts only one."""
    if has_gpu():
        return {"multi_gpu": True} if processes > 1 else {}
    threads: dict[str, Scalar] = {"num_cpu_threads_per_process": max(1, len(cores()) // on_this_node)}
    if processes == 1:
        return threads | {"cpu": True}
    return threads | {"multi_gpu": True, "main_process_port": 0}  # 0: any free port


def environment(job: TrainJob) -> dict[str, str]:
    """The environment of the training processes: our defaults, overridden by this process's environment."""
    defaults = {"TOKENIZERS_PARALLELISM": "false", "WANDB_PROJECT": "retort"}
    defaults["TENSORBOARD_LOGGING_DIR"] = str(job.output.parent / "tensorboard")
    env = defaults | model_files.environment(job.model, *(teacher.model for teacher in job.teachers))
    if has_gpu() and processes_per_node(job.train.accelerate) == 1:
        # One process that sees several GPUs would split each batch over them (DataParallel).
        env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return env
