"""Measures the main memory of a server that was started here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.hardware import has_gpu
from pipeline.inference.vllm_server import Server


def used(servers: Iterable[Server]) -> int | None:
    """Returns the bytes that the servers' processes hold now; None if that says little or is unknown.

    It is their proportional set size, in which a page shared by n processes counts 1/n in each. On a GPU vLLM
    takes a fixed share of the GPU's memory, whatever the model needs, so nothing is measured there.
    """
    children = [server.child for server in servers]
    if has_gpu() or None in children:
        return None
    processes = [process for child in children if child for process in child.processes()]
    sizes = [_proportional(process) for process in processes]
    return sum(size for size in sizes if size is not None) or None


def _proportional(process: int) -> int | None:
    """Returns the Pss line of proc_pid_smaps(5), in bytes; None if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return 1024 * found[0] if found else None
