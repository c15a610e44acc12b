"""`retort publish`: a run's data set and student in the layout of Hugging Face, each with its card.

target.py names the place and makes a folder appear whole, dataset.py writes the rows, facts.py gathers the
contents of the cards and card.py writes them, student.py copies the model, upload.py sends a folder to the
hub. Held-out problems are never published.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.progress import say
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.publish import card, dataset, facts, student, upload
from pipeline.publish.target import Target, check_writable, staged

STUDENT = "student"  # the model's folder inside the published folder


def publish(run: Run, to: str, *, with_traces: bool, with_student: bool, private: bool) -> None:
    """Writes a run's data set, and its student if it is trained, to a folder or to the hub.

    with_traces: a second config holds all traces with their verdicts. private: new repositories are private.
    Raises UserError when the run has no examples yet, or the target cannot be replaced.
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
        say(upload.send(folder, target.name, "dataset", private, leave_out=f"{STUDENT}/**"))
        if trained:
            say(upload.send(folder / STUDENT, f"{target.name}-student", "model", private))


def _write(run: Run, stage: Path, name: str | None, with_traces: bool, trained: bool) -> None:
    known = facts.gather(run)
    written = dataset.write(run, stage, with_traces)
    (stage / "README.md").write_text(card.of_dataset(known, written), encoding="utf-8")
    if trained:
        student.copy(run, stage / STUDENT)
        text = card.of_student(known, written, student.settings(run), name)
        (stage / STUDENT / "README.md").write_text(text, encoding="utf-8")
