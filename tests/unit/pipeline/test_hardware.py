"""GPUs as nvidia-smi lists them, with a stand-in for nvidia-smi."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import hardware

LISTED = """#!/bin/sh
echo '0, GPU-aa, NVIDIA H100 80GB HBM3, 81559'
echo '1, GPU-bb, NVIDIA H100 80GB HBM3, 81559'
echo '2, GPU-cc, NVIDIA GB10, [N/A]'
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A command called nvidia-smi, first on the PATH."""
    command = tmp_path / "nvidia-smi"
    command.write_text(LISTED)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware._listed.cache_clear()
    yield command
    hardware._listed.cache_clear()


def test_gpus_are_read_from_nvidia_smi_with_their_memory(smi: Path) -> None:
    assert [gpu.memory // 2**20 for gpu in hardware.gpus()] == [81559, 81559]
    assert hardware.gpus()[0].name == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(("visible", "found"), [("1", 1), ("GPU-aa,1", 2), ("", 0), ("7", 0)])
def test_gpus_hidden_from_us_are_not_counted(
    smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str, found: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(hardware.gpus()) == found


@pytest.mark.parametrize("output", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo 'No devices were found'"])
def test_a_driver_that_fails_or_lists_nothing_means_no_gpu(smi: Path, output: str) -> None:
    smi.write_text(f"#!/bin/sh\n{output}\n")
    assert hardware.gpus() == ()
