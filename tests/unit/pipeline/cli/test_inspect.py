"""Which run a command that reads runs opens."""

import time
from pathlib import Path

import pytest

from pipeline.cli import inspect
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import TraceVerdicts
from tests.small_run import write_run


def test_a_name_is_looked_for_in_the_given_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "data" / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    assert inspect.open_named(Path("data/runs"), Path("one")).path == Path("data/runs/one")
    with pytest.raises(UserError, match="one: no run there"):
        inspect.open_named(Path("."), Path("one"))


def test_without_a_name_the_run_in_which_a_stage_began_last_is_viewed(tmp_path: Path) -> None:
    for name in ("one", "two", "one"):
        if not (tmp_path / name).exists():
            write_run(tmp_path / name)
        with Output(tmp_path / name / "filter", TraceVerdicts).lock():
            time.sleep(0.02)
    assert inspect._latest(tmp_path).name == "one"
