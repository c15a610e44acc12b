"""The six stages, and the one table that names them, in the order in which they run.

To add a stage: write a file here that ends in a Stage value and add it to the table; give it settings in the
recipe (config/) and a row type (rows.py); name it in run.ROWS and cli.HELP, which load no stage.
"""

from dataclasses import replace

from pipeline.config import Recipe
from pipeline.engine.stage import Stage
from pipeline.evaluate.stage import EVALUATE
from pipeline.filter.stage import FILTER
from pipeline.generate.stage import GENERATE
from pipeline.ingest.stage import INGEST
from pipeline.select.stage import SELECT
from pipeline.train.stage import TRAIN

STAGES: dict[str, Stage] = {s.name: s for s in (INGEST, GENERATE, FILTER, SELECT, TRAIN, EVALUATE)}


def stages_of(recipe: Recipe) -> dict[str, Stage]:
    """The stages that a recipe has use for: without a student nothing is trained, or waited for."""
    if recipe.student is not None:
        return STAGES
    without = {name: stage for name, stage in STAGES.items() if name != "train"}
    return without | {"evaluate": replace(EVALUATE, reads=("ingest",))}
