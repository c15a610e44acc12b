import errno
import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine import atomic_files
from pipeline.errors import Stopped, UserError, of_system


def test_a_write_replaces_the_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    atomic_files.write_atomic(path, b"old")
    atomic_files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_full_disk_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    code = (
        "import pathlib, resource, signal, sys; from pipeline.engine import atomic_files as disk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "disk.write_atomic(pathlib.Path(sys.argv[1]), b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert f"File too large: '{path}'" in done.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_next_write_removes_old_leftovers_and_no_other_file(tmp_path: Path) -> None:
    path, owner, other = tmp_path / "report.html", "18bd1a2b3c4d5e6f012345", "18bd1a2b3c4d5e6f543210"
    left = tmp_path / f".report.html.{owner}.tmp"
    young = tmp_path / f".report.html.{other}.tmp"  # being written, perhaps on another machine
    others = (f".other.html.{owner}.tmp", f"report.html.{owner}.tmp", ".report.html.tmp", f"{left.name}.x")
    for file in (left, young, *(tmp_path / name for name in others)):
        file.write_bytes(b"x")
        os.utime(file, (0, 0) if file != young else None)
    atomic_files.write_atomic(path, b"new")
    assert {"report.html", young.name, *others} == set(os.listdir(tmp_path))


def test_a_writer_whose_temporary_file_was_removed_ends_in_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_files.new_file(tmp_path / "shard") as temporary:
            temporary.write_bytes(b"late")
            atomic_files.remove_leftovers(tmp_path)

    with pytest.raises(Stopped, match="shard: another process took over"):
        write()
    assert os.listdir(tmp_path) == []


def test_a_new_file_never_replaces_an_existing_one(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    with atomic_files.new_file(path) as temporary:
        temporary.write_bytes(b"late")
        path.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["shard"]


def test_without_hard_links_a_new_file_is_renamed_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for said in (b"first", b"second"):
        with atomic_files.new_file(tmp_path / "shard") as temporary:
            temporary.write_bytes(said)
    assert (tmp_path / "shard").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["shard"]


def test_only_a_broken_disk_makes_syncing_a_folder_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = errno.EINVAL
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_files.write_atomic(tmp_path / "a", b"x")
    atomic_files.append(tmp_path / "b", b"x")
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        atomic_files.write_atomic(tmp_path / "a", b"y")


def test_an_append_that_does_not_fit_leaves_no_partial_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    atomic_files.append(path, b"one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            atomic_files.append(path, b"two which is longer than what is left\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_differs_from_a_held_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as two:
        assert atomic_files.lock(one, fcntl.LOCK_EX, attempts=1) is True
        assert atomic_files.lock(two, fcntl.LOCK_EX, attempts=1) is False

        def flock(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        assert atomic_files.lock(two, fcntl.LOCK_EX, attempts=1) is None


def test_a_system_error_becomes_one_line_that_names_the_file() -> None:
    full = of_system(OSError(errno.ENOSPC, "No space left on device", "/data/x"), "here")
    assert isinstance(full, UserError)
    assert str(full) == "/data/x: No space left on device"
    many = of_system(OSError(errno.EMFILE, "Too many open files"), "here")
    assert isinstance(many, Stopped)
    assert str(many) == "here: Too many open files"
    assert isinstance(of_system(MemoryError(), "here"), Stopped)
    assert isinstance(of_system(OSError(errno.EFBIG, "File too large"), "here"), UserError)
