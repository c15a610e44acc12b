"""GPUs, memory and processors of this machine, found without torch."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


def has_gpu() -> bool:
    """Returns whether there is an NVIDIA or AMD GPU, and no torch that was built for CPUs only."""
    if _assumed:
        return True
    try:
        if importlib.metadata.version("torch").endswith("+cpu"):
            return False
    except importlib.metadata.PackageNotFoundError:
        pass
    return any(any(Path("/dev").glob(device)) for device in ("nvidia[0-9]*", "dxg", "kfd"))


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int  # bytes, used ones included


_assumed: list[Gpu] = []


def assume(count: int, gigabytes: float) -> None:
    """Makes this module answer for a machine with such GPUs, for `retort check --gpus`.

    `gigabytes` are 2^30 bytes, as in the names of GPUs.
    """
    _assumed[:] = [Gpu(f"GPU of {gigabytes:g} GB", int(gigabytes * 2**30))] * count


def gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs that this process may use; none if nothing lists them."""
    return tuple(_assumed) or _listed()


@lru_cache
def _listed() -> tuple[Gpu, ...]:
    """Lists NVIDIA GPUs by nvidia-smi, without those that CUDA_VISIBLE_DEVICES hides."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else {word.strip() for word in visible.split(",")}
    found = []
    for line in listed.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 4 and words[3].isdigit() and (wanted is None or wanted & set(words[:2])):
            found.append(Gpu(words[2], int(words[3]) * 2**20))
    return tuple(found)


def main_memory() -> int:
    """Returns the size of the main memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cores() -> list[int]:
    """Returns the numbers of the processors that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def computes_bf16() -> bool:
    """Returns whether matrix products run in bfloat16.

    Processors without such instructions emulate it: SmolLM2-135M trained 4 times slower than in float32, and
    was served several times slower.
    """
    if has_gpu():
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))
