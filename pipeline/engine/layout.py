"""Where the outputs of a run lie in its folder, and which rows each holds.

The output of a stage is named by its folder: "filter", or inside evaluate "evaluate/SET/ROLE/filter".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.model_rows import CompressedModel, DraftScore, Score, Step
from pipeline.rows import (
    Duplicate,
    Example,
    JudgeVerdict,
    Problem,
    Row,
    SoftLabels,
    Trace,
    TraceScore,
    TraceVerdicts,
)

ROWS: dict[str, type[Row]] = {  # of the stages that a command runs
    "ingest": Problem,
    "generate": Trace,
    "filter": TraceVerdicts,
    "score": TraceScore,
    "select": Example,
    "train": Step,
    "compress": CompressedModel,
    "evaluate": Score,
}
# Kind of output -> its folder outside evaluate, its folder inside, and its rows
_KINDS: dict[str, tuple[str | None, str | None, type[Row]]] = {
    "problems": (None, "evaluate/{set}/problems", Problem),
    "generate": ("generate", "evaluate/{set}/{role}/generate", Trace),
    "filter": ("filter", "evaluate/{set}/{role}/filter", TraceVerdicts),
    "greedy": (None, "evaluate/{set}/{role}/greedy", Trace),
    "drafts": (None, "evaluate/{set}/{role}/drafts", DraftScore),
    "judge": ("filter/judge", "evaluate/{set}/{role}/filter/judge", JudgeVerdict),
    "each": ("filter/each", None, TraceVerdicts),
    "duplicates": ("filter/duplicates", None, Duplicate),
    "attempts": ("score/attempts", None, Trace),
    "graded": ("score/graded", None, TraceVerdicts),
    "labels": ("train/labels", None, SoftLabels),
}


@dataclass(frozen=True, order=True)
class OutputPath:
    """The output of a stage: of training data, or with a set and a role that of one model in evaluate."""

    kind: str
    set: str = ""
    role: str = ""

    def __str__(self) -> str:
        """The folder, relative to the run's."""
        outside, inside, _ = _KINDS.get(self.kind, (self.kind, None, None))
        folder = inside if self.set else outside
        assert folder is not None, f"no output {self!r}"
        return folder.format(set=self.set, role=self.role)

    @property
    def row(self) -> type[Row]:
        return _KINDS[self.kind][2] if self.kind in _KINDS else ROWS[self.kind]

    def sibling(self, kind: str) -> OutputPath:
        """Another output for the same traces."""
        return replace(self, kind=kind)


def parse(name: str) -> OutputPath:
    """Reads the name of an output. Raises UserError for one that no stage writes."""
    _, _, last = name.rpartition("/")
    if name in ROWS:
        return OutputPath(name)
    parts = name.split("/")
    if parts[0] == "evaluate" and len(parts) > 2 and {"", ".", ".."}.isdisjoint(parts):
        found = OutputPath(last, parts[1], parts[2] if len(parts) > 3 else "")
    else:
        found = OutputPath(last)
    if last in _KINDS and _KINDS[last][1 if found.set else 0] and str(found) == name:
        return found
    raise UserError(f"no stage {name!r}; stages: {', '.join(ROWS)}")


def begun(run_dir: Path) -> Iterator[OutputPath]:
    """Yields the outputs that a run has, sorted by their names; not those that were set aside."""
    patterns = {p.format(set="*", role="*") for kind in _KINDS.values() for p in kind[:2] if p} | ROWS.keys()
    for name in sorted(
        str(path.parent.relative_to(run_dir))
        for pattern in patterns
        for path in run_dir.glob(f"{pattern}/manifest.json")
    ):
        yield parse(name)
