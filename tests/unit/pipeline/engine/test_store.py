import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.manifest import Manifest
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


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    output = made(tmp_path)
    assert not output.busy
    code = (
        "import sys, pathlib; from pipeline.engine.store import Output; from pipeline.rows import Problem\n"
        "with Output(pathlib.Path(sys.argv[1]), Problem).lock(): pass"
    )
    with output.lock():
        assert output.busy
        other = subprocess.run(
            [sys.executable, "-c", code, str(output.folder)], capture_output=True, text=True
        )
        assert "is working on it" in other.stderr
    assert subprocess.run([sys.executable, "-c", code, str(output.folder)]).returncode == 0


def test_an_unreadable_manifest_is_a_user_error(tmp_path: Path) -> None:
    output = made(tmp_path)
    (output.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        output.manifest()
