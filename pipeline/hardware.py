"""What this machine can do, asked without loading torch."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


def has_gpu() -> bool:
    """Whether an NVIDIA or AMD GPU is there, and a torch that was not built for the CPU alone."""
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
    memory: int  # bytes in all, whoever uses them


_assumed: list[Gpu] = []


def assume(count: int, gigabytes: float) -> None:
    """From here on, answer for a machine with such GPUs: to look at a recipe where there is none.

    gigabytes: as GPUs are sold, of 2^30 bytes.
    """
    _assumed[:] = [Gpu(f"GPU of {gigabytes:g} GB", int(gigabytes * 2**30))] * count


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that we may use; none where nothing lists them."""
    return tuple(_assumed) or _listed()


@lru_cache
def _listed() -> tuple[Gpu, ...]:
    """NVIDIA's, as nvidia-smi lists them, without those that CUDA_VISIBLE_DEVICES hides."""
    asked = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else {word.strip() for word in visible.split(",")}
    found = []
    for line in said.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 4 and words[3].isdigit() and (wanted is None or wanted & set(words[:2])):
            found.append(Gpu(words[2], int(words[3]) * 2**20))
    return tuple(found)


def main_memory() -> int:
    """Bytes of main memory in all."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cores() -> list[int]:
    """The processors that we may run on."""
    return sorted(os.sched_getaffinity(0))


def computes_bf16() -> bool:
    """Whether matrix products run in bfloat16. On a processor without such instructions it is emulated:
    SmolLM2-135M trained 4 times slower so, and was served several times slower, than in float32.
    """
    if has_gpu():
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))
