"""A wheel, built from the source distribution without a network, works in an empty folder without a clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.runs import ROOT
from tests.small_run import write_run

PACKAGES = ("pipeline/", "prompts/", "filters/")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    built = build(ROOT, "sdist", folder)
    shutil.unpack_archive(built, folder / "source")
    (source,) = (folder / "source").iterdir()
    assert tracked() <= {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    with zipfile.ZipFile(build(source, "wheel", folder)) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", target, "-d", str(folder / target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = (folder / target).iterdir()
    return built


def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines())


def run(site: Path, folder: Path, *words: str) -> str:
    """Runs a command of the unpacked wheel in a folder; returns what it printed."""
    command = [sys.executable, "-P", "-m", "pipeline", *words]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=folder, env=env, stdin=-3, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_packages_the_problems_and_the_documentation(site: Path) -> None:
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    pages = {f"pipeline/{name}" for name in tracked() if name.startswith("docs/") and name.endswith(".md")}
    own = {name for name in tracked() if name.startswith(PACKAGES)}
    unpacked = {name for name in found if ".dist-info/" not in name}
    assert unpacked == own | pages | {"pipeline/data/arithmetic.jsonl"}


def test_the_demo_s_problems_are_read(site: Path, tmp_path: Path) -> None:
    run(site, tmp_path, "ingest", "demo", "ingest.sources.0.limit=20", "ingest.sources.1.size=5")
    shards = (tmp_path / "data/runs/demo/ingest").glob("*.parquet")
    assert sum(pq.read_metadata(shard).num_rows for shard in shards) == 25


def test_a_recipe_is_written_and_a_run_reported(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "What is 2 + 3?", "answer": "5"}\n')
    server = ("--base-url", "http://127.0.0.1:9/v1")
    run(site, tmp_path, "init", "--data", "mine.jsonl", "--model", "m", *server)
    first, _, third = (tmp_path / "mine.toml").read_text().splitlines()[:3]
    schema = Path(first.removeprefix("#:schema file://"))
    assert json.loads(schema.read_text())["properties"]
    assert schema.is_relative_to(site)
    assert Path(third.removeprefix("# ")) == site / "pipeline/docs/recipe.md"
    write_run(tmp_path / "runs" / "small")
    run(site, tmp_path, "--runs", "runs", "report", "small")
    assert list((tmp_path / "runs" / "small").glob("*.html"))


def test_doctor_and_scripts_name_the_wheel_s_own_files(site: Path, tmp_path: Path) -> None:
    told = run(site, tmp_path, "doctor")
    assert f", {site}\n" in told
    assert f"docs       {site}/pipeline/docs\n" in told
    assert "run.sh" not in told
    assert f"\nprogram={Path(sys.executable).parent}/retort\n" in run(site, tmp_path, "sbatch", "gsm8k")
