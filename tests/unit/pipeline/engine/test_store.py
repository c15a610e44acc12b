import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.journal import done_line
from pipeline.engine.manifest import Manifest
from pipeline.engine.owner import this_owner
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import Problem
from tests.unit.pipeline.engine.test_shard import problem


def manifest(**settings: Any) -> Manifest:
    return Manifest(stage="ingest", version=1, settings={"temperature": 0.6, **settings}, inputs={})


def made(tmp_path: Path) -> Output:
    output = Output(tmp_path / "ingest", Problem)
    output.save(manifest())
    output.write("shard-00000", [problem("a")])
    return output


def test_a_stage_is_complete_only_once_it_is_finished(tmp_path: Path) -> None:
    output = made(tmp_path)
    assert not output.complete
    output.finish({"read": 1})
    assert output.complete
    assert output.counts().rows == 1
    output.shards()[0].path.unlink()
    assert not output.complete


def test_the_content_id_depends_on_the_written_files(tmp_path: Path) -> None:
    output = made(tmp_path)
    output.finish()
    first = output.manifest()
    output.shards()[0].path.unlink()
    output.write("shard-00000", [problem("b")])
    output.finish()
    second = output.manifest()
    assert first
    assert second
    assert first.identity == second.identity
    assert first.content_id != second.content_id


LOCKING = (
    "import sys, pathlib; from pipeline.engine.store import Output; from pipeline.rows import Problem\n"
    "with Output(pathlib.Path(sys.argv[1]), Problem).lock(shared=sys.argv[2] == 'shared'):\n"
    "    print('locked', flush=True); sys.stdin.readline()"
)


def locking(output: Output, kind: str, **environment: str) -> subprocess.Popen[str]:
    """A process that locks the folder until it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(output.folder), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_a_second_process_learns_which_one_holds_the_folder(tmp_path: Path) -> None:
    output = made(tmp_path)
    assert not output.busy
    me = f"process {os.getpid()} on {socket.gethostname()} is working on it"
    with output.lock():
        assert output.busy
        for kind in ("alone", "shared"):
            _, err = locking(output, kind).communicate("")
            assert me in err
    assert not output.busy
    assert locking(output, "alone").communicate("")[0] == "locked\n"


def test_workers_share_a_folder_that_a_driver_is_then_refused(tmp_path: Path) -> None:
    output = made(tmp_path)
    workers = [locking(output, "shared", SLURM_JOB_ID=f"7{i}") for i in range(2)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "locked\n"
    assert output.busy
    with pytest.raises(UserError, match=r"\(Slurm job 7\d\) is working on it, and 1 more"), output.lock():
        pass
    workers[0].communicate("end\n")
    left = rf"process {workers[1].pid} on \S+ \(Slurm job 71\) is working on it;"
    with pytest.raises(UserError, match=left), output.lock():
        pass
    workers[1].communicate("end\n")
    assert not output.busy
    with output.lock():
        pass


def test_a_folder_that_may_only_be_read_is_asked_whether_it_is_busy(tmp_path: Path) -> None:
    output = made(tmp_path)
    with output.lock():
        (output.folder / ".lock").chmod(0o444)
        assert output.busy
    assert not output.busy


@pytest.mark.parametrize("shared", [False, True])
def test_without_locks_a_warning_is_given_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared: bool
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    output = made(tmp_path)
    with output.lock(shared):
        assert not output.busy
    assert capsys.readouterr().err.count("this file system has no locks") == 1


def test_journals_written_after_the_seal_are_removed_by_the_next_command_and_at_the_end(
    tmp_path: Path,
) -> None:
    output = made(tmp_path)
    late = output.folder / f"shard-00000.{this_owner()}.jsonl"
    open_one = output.folder / f"shard-00001.{this_owner()}.jsonl"
    for path in (late, open_one):
        path.write_bytes(done_line(problem("late")))
    assert output.counts().rows == 1
    with output.lock(shared=True):
        assert not late.exists()
    late.write_bytes(done_line(problem("late")))
    output.finish()
    assert not late.exists()
    assert open_one.exists()


def test_an_unreadable_manifest_is_a_user_error(tmp_path: Path) -> None:
    output = made(tmp_path)
    (output.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        output.manifest()
