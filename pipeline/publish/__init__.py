"""`retort publish`: a run's data set and student in the layout of Hugging Face, each with its card.

target.py names the place and makes a folder appear whole, dataset.py writes the rows, facts.py gathers the
contents of the cards and card.py writes them, student.py copies a model, formats.py says which, ollama.py
writes a Modelfile, upload.py sends a folder to the hub. Held-out problems are never published.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.progress import say
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.model_rows import CompressedModel
from pipeline.publish import card, dataset, facts, formats, student, upload
from pipeline.publish.formats import ALL, WHOLE
from pipeline.publish.target import Target, check_writable, staged
from pipeline.train.stage import model_folder

STUDENT = "student"  # the model's folder inside the published folder


def publish(
    run: Run, to: str, *, with_traces: bool, student_formats: tuple[str, ...] = (WHOLE,), private: bool
) -> None:
    """Writes a run's data set, and its student if it is trained, to a folder or to the hub.

    with_traces: a second config holds all traces with their verdicts. student_formats: WHOLE, schemes, or
    ALL. private: new repositories are private. Raises UserError when the run has no examples yet, lacks a
    format, or the target cannot be replaced.
    """
    run.recipe.check_single()
    target = Target.read(to)
    folder = target.folder or run.path / "published"
    check_writable(folder, run.path.name)
    if not run.output("select").complete:
        raise UserError(f"{run.path}: there are no examples yet: `retort status` shows how far the run is")
    facts.check_lineage(run)
    trained = run.output("train").complete and not {WHOLE, ALL}.isdisjoint(student_formats)
    compressed = formats.chosen(run, student_formats)
    for line in facts.missing(run.recipe, trained or bool(compressed)):
        say(f"warning: {line}")
    with staged(folder, run.path.name) as stage:
        _write(run, stage, target.name, with_traces, trained, compressed)
    say(f"{folder}: {len(list(folder.rglob('*')))} files and folders")
    if target.name:
        models = [STUDENT] * trained + [f"{STUDENT}-{row.id}" for row in compressed]
        say(
            upload.send(
                folder, target.name, "dataset", private, leave_out=[f"{model}/**" for model in models]
            )
        )
        for model in models:
            say(upload.send(folder / model, f"{target.name}-{model}", "model", private))


def _write(
    run: Run,
    stage: Path,
    name: str | None,
    with_traces: bool,
    trained: bool,
    compressed: list[CompressedModel],
) -> None:
    known = facts.gather(run)
    written = dataset.write(run, stage, with_traces)
    (stage / "README.md").write_text(card.of_dataset(known, written), encoding="utf-8")
    if trained:
        student.copy(model_folder(run.path), stage / STUDENT)
        text = card.of_student(known, written, student.settings(run), name)
        (stage / STUDENT / "README.md").write_text(text, encoding="utf-8")
    for row in compressed:
        folder = stage / f"{STUDENT}-{row.id}"
        has_modelfile = formats.write(run, row, folder)
        text = card.of_compressed(known, row, name, has_modelfile)
        (folder / "README.md").write_text(text, encoding="utf-8")
