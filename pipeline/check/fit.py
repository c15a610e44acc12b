"""Computes whether a recipe's models fit on this machine's GPUs and disks, as needs with their arithmetic.

Without a GPU, main memory stands in for it. What cannot be known is told as unknown, never as missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline import hardware
from pipeline.config.endpoints import Endpoint
from pipeline.config.training import Train
from pipeline.inference import kv_cache, model_cache
from pipeline.train import launcher, memory
from pipeline.train.model_facts import ModelFacts
from pipeline.train.stage import MODEL_BYTES, MOST_CHECKPOINTS

State = Literal["ok", "missing", "unknown"]
GB = 1e9
CUDA = 0.5e9  # bytes that each process takes of its GPU before it does anything
MARGIN = 0.3  # activations in pipeline/train/memory.py are right to within so much


@dataclass(frozen=True)
class Need:
    """One thing that a stage needs. Nothing runs while one is missing; what is unknown is only told."""

    stage: str
    what: str
    state: State
    found: str


def serving(stage: str, endpoint: Endpoint, facts: ModelFacts) -> Need:
    """Whether the weights, and the KV cache of one sequence of full length, fit where vLLM serves them."""
    engine = _engine(endpoint)
    if facts.weight_bytes is None:
        return Need(
            stage, "memory to serve", "unknown", f"{facts.name}: the size of its weights is not known"
        )
    split = _number(engine, "tensor_parallel_size") * _number(engine, "pipeline_parallel_size")
    gpus = split * _number(engine, "data_parallel_size")
    length = int(str(engine.get("max_model_len", facts.context or 0)))
    cache = length * (kv_cache.bytes_per_token(facts.config, engine) or 0)
    told = (
        f"{facts.name}: {facts.weight_bytes / GB:.1f} GB of weights + {cache / GB:.1f} GB for the KV cache "
        f"of one sequence of {length:,} tokens"
    ) + (f", over {split} GPUs" if split > 1 else "")
    share = float(str(engine.get("gpu_memory_utilization", kv_cache.UTILIZATION)))
    reserved = kv_cache.RESERVED if hardware.has_gpu() else 0
    wanted = (facts.weight_bytes + cache) / split + reserved
    return _fits(Need(stage, "memory to serve", "ok", told), gpus, wanted, wanted, share)


def lengths(stage: str, endpoint: Endpoint, facts: ModelFacts, most: int, setting: str) -> Iterator[Need]:
    """Whether an answer of `most` tokens fits into what is served, and that into the model."""
    engine = _engine(endpoint)
    served = engine.get("max_model_len")
    if isinstance(served, int) and most >= served:
        yield Need(
            stage,
            "length",
            "missing",
            f"{setting} = {most} leaves no room for a question in vllm.max_model_len = {served}",
        )
    if isinstance(served, int) and facts.context and served > facts.context and "hf_overrides" not in engine:
        yield Need(
            stage,
            "length",
            "missing",
            f"vllm.max_model_len = {served}, but {facts.name} was made for {facts.context} tokens",
        )


def training(
    train: Train, bf16: bool, facts: ModelFacts, layers: int | None, teachers: Sequence[int]
) -> Need:
    """Whether a step of the training fits, by pipeline/train/memory.py."""
    need = Need("train", "memory to train", "unknown", f"{facts.name}: its sizes are not known")
    shape = facts.shape(layers)
    if shape is None:
        return need
    processes = launcher.processes(train.accelerate)
    sharded = launcher.sharding(train.accelerate) is not None
    terms = memory.needed(shape, train, bf16, processes, sharded, teachers)
    rough = terms.checkpoints + terms.recomputed + terms.loss
    sure = terms.total - rough
    told = (
        f"{facts.name}, {shape.parameters / GB:.2f} billion parameters: {sure / GB:.1f} GB for weights, "
        f"gradients, optimizer and copies + about {rough / GB:.1f} GB for {train.micro_batch_size} x "
        f"{train.max_length:,} tokens"
    ) + (f" on each of {processes} GPUs" if processes > 1 else "")
    least, most = (CUDA + sure + rough * (1 + sign * MARGIN) for sign in (-1, 1))
    return _fits(Need("train", "memory to train", "ok", told), processes, least, most, 1.0)


def disk(folder: Path, parameters: int, train: Train) -> Need:
    """Whether checkpoints and the trained model fit beside what lies on the run's disk."""
    of_checkpoint = 4 + memory.OPTIMIZER[train.optimizer]  # a weight in float32, and the optimizer's state
    wanted = parameters * (MOST_CHECKPOINTS * of_checkpoint + MODEL_BYTES)
    free = model_cache.free(folder.absolute())
    told = f"{wanted / GB:.1f} GB for {MOST_CHECKPOINTS} checkpoints and the student, {free / GB:.1f} GB free"
    state: State = "ok" if wanted <= free else "missing"
    return Need("train", "disk", state, f"{folder}: {told}")


def download(stage: str, facts: ModelFacts) -> Need | None:
    """Whether weights that have yet to come fit into the hub's cache; None where they are here."""
    if facts.downloaded:
        return None
    if facts.weight_bytes is None:
        lacking = f"{facts.name}: its weights are not on this machine, and the hub does not list them"
        return Need(stage, "download", "missing", lacking)
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    folder = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    free = model_cache.free(folder.absolute())
    told = (
        f"{facts.name}: {facts.weight_bytes / GB:.1f} GB to download into {folder}, {free / GB:.1f} GB free"
    )
    return Need(stage, "download", "ok" if facts.weight_bytes <= free else "missing", told)


def _fits(need: Need, gpus: int, least: float, most: float, share: float) -> Need:
    """The need with what the machine has: missing if not even `least` fits, unknown if `most` may not."""
    if not hardware.has_gpu():
        has, where = hardware.main_memory() / max(1, gpus), "of main memory"
    else:
        seen = hardware.gpus()
        if not seen:
            return replace(need, state="unknown", found=f"{need.found}; nvidia-smi lists no GPU")
        if gpus > len(seen):
            return replace(
                need, state="missing", found=f"{gpus} GPUs are asked for, {len(seen)} here ({need.found})"
            )
        has, where = share * min(gpu.memory for gpu in seen), f"of a {seen[0].name} may be used"
    state: State = "missing" if least > has else "unknown" if most > has else "ok"
    tight = ": tight, try a small run first" if state == "unknown" else ""
    return replace(need, state=state, found=f"{need.found}; {has / GB:.1f} GB {where}{tight}")


def _engine(endpoint: Endpoint) -> dict[str, Any]:
    """vLLM's arguments, each under its one name."""
    return {name.replace("-", "_"): value for name, value in endpoint.vllm.items()}


def _number(engine: Mapping[str, Any], name: str) -> int:
    return int(str(engine.get(name, 1)))
