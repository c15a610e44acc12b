"""The table of stages, in the order in which they run.

To add a stage: write a package with a `stage.py` that defines a `Stage`, and add it here. Give it settings in
`config/` and a row type in `rows.py`. Add its name to `engine.layout.ROWS` and `cli.sections.SECTIONS`, which
import no stage.
"""

from dataclasses import replace

from pipeline.compress.stage import COMPRESS
from pipeline.config import Recipe
from pipeline.engine.stage import Stage
from pipeline.evaluate.stage import EVALUATE
from pipeline.filter.stage import FILTER
from pipeline.generate.stage import GENERATE
from pipeline.ingest.stage import INGEST
from pipeline.score.stage import SCORE
from pipeline.select.stage import SELECT
from pipeline.train.stage import TRAIN

STAGES: dict[str, Stage] = {
    s.name: s for s in (INGEST, GENERATE, FILTER, SCORE, SELECT, TRAIN, COMPRESS, EVALUATE)
}


def stages_of(recipe: Recipe) -> dict[str, Stage]:
    """The stages that a recipe needs, each with its inputs among them.

    Without a student there is no training to run or to wait for; without a teacher, too, nothing to evaluate.
    """
    needed = {
        "score": recipe.score is not None,
        "train": recipe.student is not None,
        "compress": bool(recipe.compress.schemes),
        "evaluate": recipe.student is not None or bool(recipe.teacher),
    }
    more_inputs = {"select": (SCORE,), "evaluate": (COMPRESS,)}
    stages: dict[str, Stage] = {}
    for name, stage in STAGES.items():
        if needed.get(name, True):
            reads = (*stage.reads, *more_inputs.get(name, ()))
            stages[name] = replace(stage, reads=tuple(stages[r.name] for r in reads if r.name in stages))
    return stages
