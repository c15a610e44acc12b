from pathlib import Path

import pytest

from pipeline.engine import layout
from pipeline.engine.layout import ROWS, OutputPath
from pipeline.errors import UserError

NAMES = (
    *ROWS,
    "filter/judge",
    "filter/each",
    "filter/duplicates",
    "score/attempts",
    "score/graded",
    "evaluate/held_out/problems",
    "evaluate/held_out/student/generate",
    "evaluate/aime/teacher-big/filter",
    "evaluate/aime/teacher-big/filter/judge",
    "evaluate/previous/problems",
    "evaluate/previous/student/generate",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_an_output_is_its_folder(name: str) -> None:
    assert str(layout.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    ["", "filtr", "problems", "evaluate/x", "evaluate/x/filter", "evaluate/../generate/filter", "judge",
     "../run/filter", "evaluate/a/b/c/filter", "previous/filter/0001", "generate/judge",
     "evaluate/held_out/student/each"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no stage"):
        layout.parse(name)


def test_old_results_are_not_among_the_outputs_of_a_run(tmp_path: Path) -> None:
    for name in (*NAMES, "previous/filter/0001", "previous/evaluate/held_out/student/generate/0001"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").touch()
    assert list(map(str, layout.begun(tmp_path))) == sorted(NAMES)


def test_the_outputs_for_the_same_traces_are_siblings() -> None:
    answers = OutputPath("generate", "aime", "student")
    assert str(answers.sibling("judge")) == "evaluate/aime/student/filter/judge"
