"""The folder that publish writes: complete at any moment, and other files stay unchanged."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.publish import target
from pipeline.publish.target import check_writable, staged

FILES = {"README.md": "card", "data/train-00000-of-00001.parquet": "rows", "student/config.json": "{}"}
WRITER = f"""
import sys
from pathlib import Path
from pipeline.publish.target import staged
while True:
    with staged(Path(sys.argv[1]), "run") as stage:
        for name, text in {FILES!r}.items():
            (stage / name).parent.mkdir(exist_ok=True)
            (stage / name).write_text(text)
"""


def write(folder: Path, run: str = "run") -> None:
    with staged(folder, run) as stage:
        for name, text in FILES.items():
            (stage / name).parent.mkdir(exist_ok=True)
            (stage / name).write_text(text)


def whole(folder: Path) -> bool:
    return all((folder / name).read_text() == text for name, text in FILES.items())


def test_a_folder_is_replaced_by_one_of_the_same_run_without_leftovers(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("older")
    write(tmp_path / "out")
    assert whole(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["notes.txt", "data/mine.csv", "student/checkpoint/a.bin"])
def test_a_file_of_others_in_the_folder_is_kept_and_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name}, which publish did not write"):
        write(tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_of_others_in_the_folder_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "data" / "more").symlink_to(tmp_path)
    with pytest.raises(UserError, match="holds data/more"):
        check_writable(tmp_path / "out", "run")


def test_without_an_atomic_exchange_folders_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "_exchange", lambda one, other: False)
    write(tmp_path / "out")
    write(tmp_path / "out")
    assert whole(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_leftovers_of_a_killed_process_are_removed_and_its_moved_folder_is_restored(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = ended.pid
    node = os.uname().nodename
    write(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / f".out.{gone}@{node}.old")
    (tmp_path / f".out.{gone}@{node}.unfinished" / "data").mkdir(parents=True)
    others = [
        f".out.{os.getppid()}@{node}.unfinished",
        f".out.{gone}@elsewhere.old",
        ".out.x.old",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "out.txt").touch()
    write(tmp_path / "out")
    assert whole(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted(["out", "out.txt", *others])


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_folder_whole(tmp_path: Path) -> None:
    write(tmp_path / "out")
    for number in range(30):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "out")])
        time.sleep(0.3 + random.Random(number).random() * 0.3)
        writer.kill()
        writer.wait()
        assert whole(tmp_path / "out")
    write(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
