"""What errors say of a missing package, in copies of the module that lie as a clone and as an install do."""

import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import pipeline
from pipeline import install_hints

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "pipeline").mkdir()
    for name in ("__init__.py", "install_hints.py"):
        shutil.copy(ROOT / "pipeline" / name, tmp_path / "pipeline")
    (tmp_path / "run.sh").touch()
    return tmp_path


def said(root: Path, call: str, python: Path | str = sys.executable, cwd: Path | None = None) -> str:
    found = f"import sys; sys.path.insert(0, {str(root)!r}); from pipeline import install_hints as i"
    probe = f"{found}; print({call})"
    done = subprocess.run([python, "-c", probe], cwd=cwd or root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_in_an_install_it_is_the_distribution_of_ours(clone: Path) -> None:
    (clone / "run.sh").unlink()
    assert said(clone, 'i.extra("sql")') == f"{sys.executable} -m pip install 'retort-distill[sql]'"


def test_in_a_clone_it_is_the_clone(clone: Path) -> None:
    assert said(clone, 'i.extra("sql")') == f"{sys.executable} -m pip install -e '.[sql]'"
    elsewhere = said(clone, 'i.extra("sql")', cwd=clone / "pipeline")
    assert elsewhere == f"{sys.executable} -m pip install -e '{clone}[sql]'"
    assert said(clone, 'i.package("wandb")') == f"{sys.executable} -m pip install wandb"


def test_in_what_the_script_set_up_it_is_the_script_where_that_helps(clone: Path) -> None:
    venv.create(clone / ".venv", symlinks=True)
    python = clone / ".venv" / "bin" / "python"
    assert said(clone, 'i.extra("sql")', python) == "./.venv/bin/python -m pip install -e '.[sql]'", (
        "made by hand"
    )
    (clone / ".venv" / "install.log").touch()
    assert said(clone, 'i.extra("sql")', python) == "./run.sh setup"
    assert (
        said(clone, 'i.extra("deepspeed")', python) == "./.venv/bin/python -m pip install -e '.[deepspeed]'"
    )


def test_the_names_are_those_of_the_project() -> None:
    assert PROJECT["name"] == install_hints.DISTRIBUTION
    assert pipeline.__version__ == PROJECT["version"]
    assert set(install_hints._BY_THE_SCRIPT) < set(PROJECT["optional-dependencies"])
