"""The documentation as a site: every page is in its menu, and no link or anchor is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.runs import ROOT


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ".mkdocs.yml"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "index.html").read_text()
    assert "distills reasoning" in first
    assert "training/" in first
    assert (tmp_path / "repository/pipeline/recipes/gsm8k.toml.txt").is_file()
    assert (tmp_path / "img/report-evaluation.png").is_file()
