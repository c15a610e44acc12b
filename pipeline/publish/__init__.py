"""`retort publish`: a run's data set and student as Hugging Face expects them, each with its card.

target.py says where they go and sees to it that a folder appears whole; dataset.py writes the rows;
facts.py gathers what the cards say, card.py says it; student.py copies the model; upload.py sends a folder
to the hub. Leaves out the held-out problems: they are for measuring.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.progress import say
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.publish import card, dataset, facts, student, upload
from pipeline.publish.target import Target, check_writable, staged

STUDENT = "student"  # the model's folder within the published one


def publish(run: Run, to: str, *, with_traces: bool, with_student: bool, private: bool) -> None:
    """Write a run's data set, and its student where it is trained, to a folder or to the hub.

    with_traces: a second config holds every trace with its verdicts. private: so are repositories made now.
    Raises UserError when the run is not so far, or the target is not ours to write.
    """
    target = Target.read(to)
    folder = target.folder or run.path / "published"
    check_writable(folder, run.path.name)
    if not run.output("select").complete:
        raise UserError(f"{run.path}: there are no examples yet: `retort status` shows how far the run is")
    facts.check_lineage(run)
    trained = with_student and run.output("train").complete
    for line in facts.missing(run.recipe, trained):
        say(f"warning: {line}")
    with staged(folder, run.path.name) as stage:
        _write(run, stage, target.name, with_traces, trained)
    say(f"{folder}: {len(list(folder.rglob('*')))} files and folders")
    if target.name:
        _send(folder, target.name, trained, private)


def _write(run: Run, stage: Path, name: str | None, with_traces: bool, trained: bool) -> None:
    known = facts.gather(run)
    rows = dataset.write(run, stage, with_traces)
    (stage / "README.md").write_text(card.of_dataset(known, rows), encoding="utf-8")
    if trained:
        student.copy(run, stage / STUDENT)
        text = card.of_student(known, rows, student.settings(run), name)
        (stage / STUDENT / "README.md").write_text(text, encoding="utf-8")


def _send(folder: Path, name: str, trained: bool, private: bool) -> None:
    say(upload.send(folder, name, "dataset", private, leave_out=f"{STUDENT}/**"))
    if trained:
        say(upload.send(folder / STUDENT, f"{name}-student", "model", private))
