"""The memory of servers that are started here."""

import sys
from pathlib import Path

import pytest

from pipeline.engine.subprocess_guard import Child
from pipeline.hardware import has_gpu
from pipeline.inference import server_memory
from pipeline.inference.vllm_server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux" or has_gpu(), reason="measured from /proc")


def test_the_memory_of_all_processes_counts(tmp_path: Path) -> None:
    held = "x = b'1' * 2**26; print('ready', flush=True); import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', {held!r}])"
    with Child([sys.executable, "-P", "-c", code], tmp_path / "log") as child:
        while "ready" not in (tmp_path / "log").read_text():
            assert child.poll() is None
        server = Server(("http://127.0.0.1:9/v1",), "m", child)
        used = server_memory.used([server])
        assert used
        assert 2**26 < used < 2**28
    assert server_memory.used([server]) is None


def test_a_server_that_runs_elsewhere_is_not_measured() -> None:
    assert server_memory.used([Server(("http://127.0.0.1:9/v1",), "m")]) is None
