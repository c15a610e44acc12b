"""Computes whether a recipe's models fit on this machine's GPUs and disks, with the arithmetic spelled out.

Without a GPU, main memory counts. A size that cannot be found makes a requirement unknown, never missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline import hardware
from pipeline.config.endpoints import Endpoint
from pipeline.config.train import Train
from pipeline.inference import kv_cache, model_cache
from pipeline.inference.pruning import Pruning
from pipeline.train import checkpoints, launcher, memory
from pipeline.train.model_facts import ModelFacts

State = Literal["ok", "missing", "unknown"]
GB = 1e9
CUDA = 0.5e9  # bytes of a GPU that each process takes before it does anything
MARGIN = 0.3  # relative error of the activations that pipeline/train/memory.py estimates


@dataclass(frozen=True)
class Requirement:
    """One thing that a stage needs. A missing one stops the run; an unknown one is only reported."""

    stage: str
    what: str
    state: State
    detail: str


def serving(stage: str, endpoint: Endpoint, facts: ModelFacts) -> Requirement:
    """Checks that the weights and the KV cache of one sequence of full length fit where vLLM serves them."""
    what = "memory to serve"
    if facts.weight_bytes is None:
        return Requirement(stage, what, "unknown", f"{facts.name}: the size of its weights is not known")
    engine = _engine_arguments(endpoint)
    tensor, pipelined, data = (
        int(str(engine.get(f"{kind}_parallel_size", 1))) for kind in ("tensor", "pipeline", "data")
    )
    split = tensor * pipelined
    length, per_token = _length(engine, facts), kv_cache.bytes_per_token(facts.config, engine)
    cache = length * per_token if length and per_token else None
    weights = f"{facts.name}: {facts.weight_bytes / GB:.1f} GB of weights"
    if cache is None:
        detail = f"{weights} + a KV cache of unknown size"
    else:
        detail = f"{weights} + {cache / GB:.1f} GB for the KV cache of one sequence of {length:,} tokens"
    detail += f", over {split} GPUs" if split > 1 else ""
    if changed := sorted(kv_cache.UNSUPPORTED & set(engine)):
        detail += f"; vllm.{changed[0]} may change that"
    usable = float(str(engine.get("gpu_memory_utilization", kv_cache.UTILIZATION)))
    reserved = kv_cache.RESERVED if hardware.has_gpu() else 0
    needed = (facts.weight_bytes + (cache or 0)) / split + reserved
    least, most = reserved if changed else needed, math.inf if cache is None else needed
    return _in_memory(Requirement(stage, what, "ok", detail), split * data, least, most, usable)


def _length(engine: Mapping[str, Any], facts: ModelFacts) -> int | None:
    """The tokens of one sequence; None where vLLM chooses them, or reads a number such as 32k."""
    given = str(engine.get("max_model_len", facts.context))
    return int(given) if given.isdecimal() else None


def lengths(
    stage: str, endpoint: Endpoint, facts: ModelFacts, max_tokens: int, setting: str
) -> Iterator[Requirement]:
    """Yields what is missing: room for a response in the served context, or for that in the model's."""
    engine = _engine_arguments(endpoint)
    served = engine.get("max_model_len")
    if not isinstance(served, int):
        return
    if max_tokens >= served:
        detail = f"{setting} = {max_tokens} leaves no room for a question in vllm.max_model_len = {served}"
        yield Requirement(stage, "length", "missing", detail)
    if facts.context and served > facts.context and "hf_overrides" not in engine:
        detail = f"vllm.max_model_len = {served}, but {facts.name} was made for {facts.context} tokens"
        yield Requirement(stage, "length", "missing", detail)


def together(stage: str, endpoints: Sequence[Endpoint]) -> Iterator[Requirement]:
    """Yields what is missing: room for servers that run at once, each of which begins with the first GPU."""
    sharing = [each for each in endpoints if "CUDA_VISIBLE_DEVICES" not in each.env]
    given = [_engine_arguments(each).get("gpu_memory_utilization") for each in sharing]
    total = sum(kv_cache.UTILIZATION if share is None else float(str(share)) for share in given)
    if hardware.has_gpu() and len(sharing) > 1 and total > 1:
        detail = (
            f"{len(sharing)} models are served at once and take {total:.2f} of the same GPUs' memory: give "
            "each its own by env = { CUDA_VISIBLE_DEVICES = ... }, or lower vllm.gpu_memory_utilization"
        )
        yield Requirement(stage, "memory to serve together", "missing", detail)


def training(
    train: Train, bf16: bool, facts: ModelFacts, pruning: Pruning | None, teachers: Sequence[int]
) -> Requirement:
    """Checks that a training step fits, by train/memory.py; `teachers` are parameter counts."""
    requirement = Requirement("train", "memory to train", "unknown", f"{facts.name}: its sizes are not known")
    shape = facts.shape(pruning)
    if shape is None:
        return requirement
    if launcher.zero_stage(train.accelerate) in (0, 1, 2):
        detail = f"{facts.name}: not estimated for ZeRO below stage 3, which keeps whole weights on each GPU"
        return replace(requirement, detail=detail)
    processes = launcher.processes(train.accelerate)
    sharded = launcher.sharding(train.accelerate) is not None
    terms = memory.needed(shape, train, bf16, processes, sharded, teachers)
    activations = terms.checkpoints + terms.recomputed + terms.loss + terms.terms
    fixed = terms.total - activations
    detail = (
        f"{facts.name}, {shape.parameters / GB:.2f} billion parameters: {fixed / GB:.1f} GB for weights, "
        f"gradients, optimizer and copies + about {activations / GB:.1f} GB for {train.micro_batch_size} x "
        f"{train.max_length:,} tokens"
    )
    here = launcher.processes_per_node(train.accelerate)
    if processes > 1:
        detail += f" on each of {processes} GPUs" + (f", {here} a node" if processes > here else "")
    least, most = (CUDA + fixed + activations * (1 + sign * MARGIN) for sign in (-1, 1))
    found = _in_memory(replace(requirement, state="ok", detail=detail), here, least, most, 1.0)
    return _without_optimizer(found, train)


def _without_optimizer(requirement: Requirement, train: Train) -> Requirement:
    """What fits without the state of an optimizer of unknown size may not fit with it."""
    if memory.knows_optimizer(train) or requirement.state == "missing":
        return requirement
    left_out = f"{requirement.detail}; without the state of {train.used_optimizer}, whose size is not known"
    return replace(requirement, state="unknown", detail=left_out)


def disk(folder: Path, parameters: int, train: Train) -> Requirement:
    """Checks that checkpoints and the trained model fit on the run's disk."""
    needed, kept = memory.disk(parameters, train), checkpoints.room(folder / "train" / "checkpoints")
    detail = f"{folder}: {needed / GB:.1f} GB for {memory.MOST_CHECKPOINTS} checkpoints and the student"
    detail += f", {kept / GB:.1f} GB of it there already" if kept else ""
    found = _on_disk(Requirement("train", "disk", "ok", detail), needed - kept, folder)
    return _without_optimizer(found, train)


def download(stage: str, facts: ModelFacts) -> Requirement | None:
    """Checks that weights still to be downloaded fit into the hub's cache; None if they are here."""
    if facts.downloaded:
        return None
    if facts.weight_bytes is None:
        detail = f"{facts.name}: its weights are not on this machine, and the hub does not list them"
        return Requirement(stage, "download", "missing", detail)
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    folder = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    detail = f"{facts.name}: {facts.weight_bytes / GB:.1f} GB to download into {folder}"
    return _on_disk(Requirement(stage, "download", "ok", detail), facts.weight_bytes, folder)


def _on_disk(requirement: Requirement, needed: float, folder: Path) -> Requirement:
    free = model_cache.free(folder.absolute())
    state: State = "ok" if needed <= free else "missing"
    return replace(requirement, state=state, detail=f"{requirement.detail}, {free / GB:.1f} GB free")


def _in_memory(requirement: Requirement, gpus: int, least: float, most: float, usable: float) -> Requirement:
    """Compares the bytes needed per GPU with the machine's: missing below `least`, unknown below `most`.

    `usable` is the fraction of a GPU's memory that may be used.
    """
    if not hardware.has_gpu():
        has, where = hardware.main_memory() / max(1, gpus), "of main memory"
    else:
        seen = hardware.gpus()
        if not seen:
            return replace(
                requirement, state="unknown", detail=f"{requirement.detail}; nvidia-smi lists no GPU"
            )
        if gpus > len(seen):
            detail = f"{gpus} GPUs are needed, {len(seen)} are here ({requirement.detail})"
            return replace(requirement, state="missing", detail=detail)
        has, where = usable * min(gpu.memory for gpu in seen), f"of a {seen[0].name} may be used"
    state: State = "missing" if least > has else "unknown" if most > has else "ok"
    tight = ": tight, try a small run first" if state == "unknown" else ""
    return replace(requirement, state=state, detail=f"{requirement.detail}; {has / GB:.1f} GB {where}{tight}")


def _engine_arguments(endpoint: Endpoint) -> dict[str, Any]:
    """Returns vLLM's arguments, with underscores in their names."""
    return {name.replace("-", "_"): value for name, value in endpoint.vllm.items()}
