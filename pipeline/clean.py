"""`retort clean`: deletes the earlier results that a run keeps in previous/."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.engine import previous
from pipeline.errors import UserError
from pipeline.inspect.format import megabytes
from pipeline.inspect.run import Run
from pipeline.rows import JudgeVerdict, SoftLabels, Trace

PAID = (Trace, JudgeVerdict, SoftLabels)  # rows that a model was asked for


def clean(run: Run, dry_run: bool, paid: bool) -> Iterator[str]:
    """Deletes the results, with `paid` also those of models; yields a line on each, and what that frees.

    Raises UserError if a stage of the run is at work.
    """
    for stage in run.stages:
        if run.output(stage).busy:
            raise UserError(f"{run.path}: a command works on {stage}; wait or stop it")
    freed = 0
    for output in previous.all_results(run.path):
        size = sum(path.stat().st_size for path in output.folder.rglob("*") if path.is_file())
        name = f"{output.folder.relative_to(run.path)}: {megabytes(size)}"
        if output.row in PAID and not paid:
            yield f"{name}, kept: models were asked for its rows; --paid deletes them too"
            continue
        yield name
        freed += size
        if not dry_run:
            previous.remove(output)
    yield f"{megabytes(freed)} {'would be' if dry_run else 'are'} freed"
