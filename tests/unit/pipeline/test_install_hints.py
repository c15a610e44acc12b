"""Install hints for missing packages, in a copy of the module laid out as a clone and as an install."""

import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import pipeline
from pipeline import install_hints

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "pipeline").mkdir()
    for name in ("__init__.py", "install_hints.py", "shipped.py"):
        shutil.copy(ROOT / "pipeline" / name, tmp_path / "pipeline")
    (tmp_path / "run.sh").touch()
    return tmp_path


def said(root: Path, call: str, python: Path | str = sys.executable, cwd: Path | None = None) -> str:
    found = f"import sys; sys.path.insert(0, {str(root)!r}); from pipeline import install_hints as i"
    probe = f"{found}; print({call})"
    done = subprocess.run([python, "-c", probe], cwd=cwd or root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_install_names_our_distribution(clone: Path) -> None:
    (clone / "run.sh").unlink()
    assert said(clone, 'i.extra("report")') == f"{sys.executable} -m pip install 'retort-distill[report]'"


def test_a_clone_names_itself(clone: Path) -> None:
    assert said(clone, 'i.extra("report")') == f"{sys.executable} -m pip install -e '.[report]'"
    elsewhere = said(clone, 'i.extra("report")', cwd=clone / "pipeline")
    assert elsewhere == f"{sys.executable} -m pip install -e '{clone}[report]'"
    assert said(clone, 'i.package("wandb")') == f"{sys.executable} -m pip install wandb"


def test_an_environment_made_by_the_script_names_the_script_for_its_extras(clone: Path) -> None:
    venv.create(clone / ".venv", symlinks=True)
    python = clone / ".venv" / "bin" / "python"
    assert said(clone, 'i.extra("report")', python) == "./.venv/bin/python -m pip install -e '.[report]'", (
        "made by hand"
    )
    (clone / ".venv" / "install.log").touch()
    assert said(clone, 'i.extra("report")', python) == "./run.sh setup"
    assert (
        said(clone, 'i.extra("deepspeed")', python) == "./.venv/bin/python -m pip install -e '.[deepspeed]'"
    )


def test_names_and_version_are_those_of_the_project() -> None:
    assert PROJECT["name"] == install_hints.DISTRIBUTION
    assert pipeline.__version__ == PROJECT["version"]
    assert set(install_hints.RUN_SH_EXTRAS) < set(PROJECT["optional-dependencies"])


def test_every_package_of_the_wheel_is_typed() -> None:
    packages = PYPROJECT["tool"]["mypy"]["packages"]
    assert [name for name in packages if not (ROOT / name / "py.typed").is_file()] == []
    assert set(packages) < set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    assert PYPROJECT["tool"]["mypy"]["strict"]
