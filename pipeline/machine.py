"""What this machine can do, asked without loading torch."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path


def has_gpu() -> bool:
    """Whether an NVIDIA or AMD GPU is there, and a torch that was not built for the CPU alone."""
    try:
        if importlib.metadata.version("torch").endswith("+cpu"):
            return False
    except importlib.metadata.PackageNotFoundError:
        pass
    return any(any(Path("/dev").glob(device)) for device in ("nvidia[0-9]*", "dxg", "kfd"))


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
