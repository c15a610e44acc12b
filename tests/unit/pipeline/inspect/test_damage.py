"""Damaged files of a run: each command reports the damage in one line or shows correct data."""

import io
import json
import random
import re
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from pipeline.cli.main import cli
from pipeline.engine import checksums
from pipeline.engine.journal import done_line, failed_line
from pipeline.engine.manifest import Manifest
from pipeline.engine.shard import Shard
from pipeline.engine.store import Output
from pipeline.errors import Stopped, UserError
from pipeline.generate import usage
from pipeline.inspect.run import open_run
from pipeline.rows import Problem
from tests.small_run import write_run
from tests.unit.pipeline.engine.test_sealed_file import flipped
from tests.unit.pipeline.engine.test_shard import problem

LOOKING = (["status", "run"], ["why", "run"], ["show", "run"], ["diff", "run", "other"], ["status"])


def said(runs: Path, words: Sequence[str]) -> str:
    """The output of a command, or the line of its refusal."""
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            cli.main(["--runs", str(runs), *words], standalone_mode=False)
    except (UserError, Stopped) as e:
        told = str(e)
    else:
        return out.getvalue()
    assert "\n" not in told
    return f"refused: {told}"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("run", "other"):
        write_run(tmp_path / name)
    run = tmp_path / "run"
    event = {
        "stage": "filter",
        "ended": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
        "exit_code": 0,
        "rows": 9,
    }
    (run / "events.jsonl").write_bytes(checksums.line(json.dumps(event | {"failed": 0}).encode()))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "filter/shard-00001.parquet",
        "generate/shard-00000.parquet",
        "evaluate/shard-00000.parquet",
        "filter/manifest.json",
        "evaluate/manifest.json",
    ],
)
def test_a_flipped_bit_is_reported_or_changes_nothing_shown(runs: Path, name: str) -> None:
    path = runs / "run" / name
    good, right = path.read_bytes(), [said(runs, words) for words in LOOKING]
    draw = random.Random(name)
    for _ in range(6):
        path.write_bytes(flipped(good, draw.randrange(len(good)), draw.randrange(8)))
        for words, before in zip(LOOKING, right, strict=True):
            now = said(runs, words)
            assert now == before or str(path) in now.replace("\n", "")


def test_a_flipped_bit_in_a_small_file_is_named_or_changes_nothing_shown(runs: Path) -> None:
    run = runs / "run"
    (run / "recipe.json").write_bytes(checksums.document((run / "recipe.json").read_bytes()))
    usage.UsageLog(run / "generate", ()).save("12/40")
    right = said(runs, ["status", "run"])
    draw = random.Random(1)
    for path in (run / "recipe.json", next(run.glob("generate/usage.*.json"))):
        good = path.read_bytes()
        for _ in range(10):
            path.write_bytes(flipped(good, draw.randrange(len(good)), draw.randrange(8)))
            now = said(runs, ["status", "run"])
            assert now == right or str(path) in now.replace("\n", "")
        path.write_bytes(good)


def test_a_flipped_bit_in_an_event_loses_the_event(runs: Path) -> None:
    path = runs / "run" / "events.jsonl"
    good = path.read_bytes()
    path.write_bytes(flipped(good, len(good) // 2, 1) + good)
    assert open_run(runs / "run").seconds() == {"filter": 1.5}


def test_a_missing_shard_or_one_of_another_stage_is_reported(runs: Path) -> None:
    path = runs / "run" / "filter" / "shard-00000.parquet"
    shutil.copy(runs / "run" / "ingest" / "shard-00000.parquet", path)
    assert re.search("damaged.*it has no column", said(runs, ["why", "run"]))
    path.unlink()
    assert f"{path} is missing" in said(runs, ["why", "run"])


def test_a_manifest_cannot_name_a_file_outside_its_folder(runs: Path) -> None:
    path = runs / "run" / "filter" / "manifest.json"
    held = json.loads(path.read_text())
    del held["checksum"]
    for shards in (["../evil"], ["shard-00000"]):
        path.write_text(json.dumps(held | {"shards": shards}))
        assert said(runs, ["why", "run"]).startswith(f"refused: {path} cannot be read")


def test_invalid_lines_of_events_are_skipped(runs: Path) -> None:
    path = runs / "run" / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'\xff\xfe\n[1]\n{}\n{"stage": 1}\nnull\n{"stage": "fil')
    assert open_run(runs / "run").seconds() == {"filter": 1.5}


def opened(folder: Path) -> tuple[Shard, bytes]:
    """A shard with the journal of three finished items and a failed one, and the journal."""
    shard = Shard(folder, "s", Problem, {})
    shard.append([*(done_line(problem(f"p{i}")) for i in range(3)), failed_line("p3", "no")])
    return shard, shard.journal.read_bytes()


def test_a_flipped_bit_in_a_journal_loses_its_line_and_is_counted(tmp_path: Path) -> None:
    shard, good = opened(tmp_path)
    whole = {f"p{i}" for i in range(4)}
    draw = random.Random(1)
    for _ in range(300):
        place = draw.randrange(len(good) - 1)
        shard.journal.write_bytes(flipped(good, place, draw.randrange(8)))
        damaged = shard.repair()
        held = shard.read_journal(("question", "reference"))
        assert damaged in (1, 2)  # 2: a line was split in two, or two were joined
        assert 2 <= len(held.rows.keys() | held.failed.keys()) < len(whole)
        for key, row in held.rows.items():
            assert row == {"question": f"{key}?", "reference": "1"}


@pytest.mark.parametrize(
    "line",
    [
        b"0",
        b"null",
        b"[]",
        b'"row"',
        b"{}",
        b'{"key":"p0"}',
        b'{"key":"p0","row":{}}',
        b'{"key":"p0","row":null}',
        b'{"key":["p0"],"failed":"x"}',
        b'{"key":"p0","failed":"x","crc":"00000000"}',
        b"[" * 5000,
        b"1e999",
        b"\x00" * 300,
        b"",
    ],
)
def test_any_line_that_is_no_entry_counts_as_damaged(tmp_path: Path, line: bytes) -> None:
    shard, good = opened(tmp_path)
    shard.journal.write_bytes(line + b"\n" + good)
    assert shard.repair() == 1
    assert shard.read_journal().rows.keys() == {"p0", "p1", "p2"}
    assert [row.id for row in shard.journal_rows({"p0"})] == ["p0"]
    shard.seal(["p2", "p0"])
    assert [row.id for row in shard.rows()] == ["p2", "p0"]


def test_a_row_damaged_during_the_run_stops_the_seal(tmp_path: Path) -> None:
    shard, good = opened(tmp_path)
    shard.journal.write_bytes(flipped(good, 30, 0))
    with pytest.raises(Stopped, match="s: 1 rows were damaged"):
        shard.seal(["p0", "p1", "p2"])
    assert not shard.sealed


def test_an_input_that_its_stage_did_not_write_is_refused(runs: Path) -> None:
    output = open_run(runs / "run").output("filter")
    output.check_unchanged()
    one, two = (shard.path for shard in output.shards()[:2])
    shutil.copy(two, one)
    with pytest.raises(UserError, match=re.escape(f"{one} is not the file that its stage wrote")):
        output.check_unchanged()


def test_a_shard_from_a_surviving_process_with_other_settings_is_removed(
    tmp_path: Path,
) -> None:
    output = Output(tmp_path, Problem)
    old = Manifest(stage="filter", version=1, settings={"rules": "old"}, inputs={}, shards=("a", "b"))
    output.save(old)
    late = output.shards()[1]  # held by a surviving process
    new = old.model_copy(update={"settings": {"rules": "new"}})
    output.save(new)
    output.write("a", [problem("x")])
    late.write([problem("old").model_dump()])
    output.write("b", [problem("new")])  # already sealed by the other one
    with pytest.raises(Stopped, match="1 shards, such as b, were written by another process"):
        output.finish()
    assert not output.complete
    output.write("b", [problem("new")])
    output.finish()
    assert [row.id for row in output.rows()] == ["x", "new"]
    late.write([problem("old").model_dump()])
    assert [row.id for row in output.rows()] == ["x", "new"]
    output.check_unchanged()
