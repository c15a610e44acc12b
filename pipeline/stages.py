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
from pipeline.select.stage import SELECT
from pipeline.train.stage import TRAIN

STAGES: dict[str, Stage] = {s.name: s for s in (INGEST, GENERATE, FILTER, SELECT, TRAIN, COMPRESS, EVALUATE)}


def stages_of(recipe: Recipe) -> dict[str, Stage]:
    """The stages that a recipe needs.

    Without a student there is no training to run or to wait for; without a teacher, too, nothing to evaluate.
    """
    stages = dict(STAGES)
    if recipe.compress.schemes:
        stages["evaluate"] = replace(EVALUATE, reads=(*EVALUATE.reads, COMPRESS))
    else:
        del stages["compress"]
    if recipe.student is None:
        del stages["train"]
        stages["evaluate"] = replace(EVALUATE, reads=(INGEST,))
        if not recipe.teacher:
            del stages["evaluate"]
    return stages
