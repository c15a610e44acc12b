"""Imports go one way, heavy libraries stay out, and the top level stays as it is."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import TypeGuard

import pytest

from pipeline.cli.sections import STAGE_NAMES
from pipeline.engine.layout import ROWS
from pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "vllm", "trl", "datasets", "duckdb")

# Which of our modules may import which; a module belongs to the tier with the longest name for it.
TIERS = (
    ("filters.errors",),
    (
        "pipeline.errors",
        "pipeline.generations",
        "pipeline.install_hints",
        "pipeline.hardware",
        "pipeline.rows",
        "pipeline.shipped",
    ),
    ("pipeline.arrow_schema", "pipeline.model_rows"),
    ("filters.policy", "filters.result", "filters.limits", "filters.text"),
    ("filters.formula", "filters.isolated", "filters.sandbox"),
    ("filters.extract",),
    ("filters.grade",),
    ("filters.rules", "filters.dataset"),
    ("filters", "prompts"),
    ("pipeline.config",),
    ("pipeline.engine",),
    ("pipeline.inference", "pipeline.ingest"),
    ("pipeline.generate",),
    ("pipeline.filter",),
    ("pipeline.score", "pipeline.select", "pipeline.train"),
    ("pipeline.compress",),
    ("pipeline.evaluate",),
    ("pipeline.stages",),
    ("pipeline.inspect",),
    ("pipeline.report", "pipeline.publish", "pipeline.chat", "pipeline.clean"),
    ("pipeline.check", "pipeline.init", "pipeline.view"),
    ("pipeline.run_stages",),
    ("pipeline.ablate", "pipeline.chain"),
    ("pipeline.cli",),
    ("pipeline.fake_server",),  # nothing of the product may need it
)


def layer(module: str) -> int | None:
    parts = module.split(".")
    names = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    found = [(len(name), i) for i, members in enumerate(TIERS) for name in members if name in names]
    return max(found)[1] if found else None  # the longest name decides: filters.text before filters


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[Path]:
    return [p for folder in ("pipeline", "filters", "prompts") for p in sorted((ROOT / folder).rglob("*.py"))]


def test_imports_go_one_way() -> None:
    for path in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        own = layer(module)
        if own is None:
            continue
        for other in imports(path):
            reached = layer(other)
            assert reached is None or reached <= own, f"{module} imports {other}, which stands above it"


def test_the_light_lists_of_stages_equal_the_table() -> None:
    assert STAGE_NAMES == list(ROWS) == list(STAGES)
    assert {name: stage.row for name, stage in STAGES.items()} == ROWS


def test_training_is_reached_only_as_a_subprocess() -> None:
    for path in sources():
        if "trainer" not in path.parts:
            reached = {name for name in imports(path) if name.startswith("pipeline.train.trainer")}
            assert not reached, f"{path} imports {reached}"


def test_python_is_started_without_the_working_directory_in_its_path() -> None:
    nodes = (node for path in sources() for node in ast.walk(ast.parse(path.read_text())))
    starts = [node for node in nodes if starts_python(node)]
    assert len(starts) >= 6
    for node in starts:
        flags = {item.value for item in node.elts if isinstance(item, ast.Constant)}
        assert flags & {"-P", "-I"}, ast.unparse(node)


def starts_python(node: ast.AST) -> TypeGuard[ast.List | ast.Tuple]:
    """Whether it is a command line that begins with the interpreter."""
    return (
        isinstance(node, ast.List | ast.Tuple)
        and bool(node.elts)
        and ast.unparse(node.elts[0]) == "sys.executable"
    )


@pytest.mark.parametrize(
    "code",
    [
        "from pipeline.cli.main import cli; cli.main(['--help'], standalone_mode=False)",
        "import pipeline.stages, pipeline.config",
        "from pipeline import open_run; import pipeline.inspect.show",
    ],
)
def test_help_stages_and_opening_a_run_load_no_heavy_library(code: str) -> None:
    probe = f"{code}\nimport sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_help_takes_well_under_half_a_second_of_imports() -> None:
    probe = "import sys; from pipeline.cli.main import cli; print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert int(done.stdout) < 400


def test_the_top_level_is_what_the_owner_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    ours = {"pipeline", "prompts", "filters", "tests", "data", "docs"}
    assert top == ours | {"pyproject.toml", "README.md", "LICENSE", "run.sh"}


def test_tests_mirror_the_tree() -> None:
    unit = ROOT / "tests" / "unit"
    for path in unit.rglob("test_*.py"):
        assert (ROOT / path.parent.relative_to(unit)).is_dir(), path
