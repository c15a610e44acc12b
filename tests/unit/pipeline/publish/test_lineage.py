"""A card tells of the problems behind the published traces and of the published models, not of others."""

from pathlib import Path

import pytest

from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.model_rows import Score
from pipeline.publish.facts import check_lineage
from tests.small_run import write_filtered


def test_a_run_whose_problems_were_read_again_is_refused(tmp_path: Path) -> None:
    run = write_filtered(tmp_path / "run", kept=1)
    check_lineage(run)
    ingest = run.output("ingest")
    manifest = ingest.manifest()
    assert manifest is not None
    ingest.save(manifest.model_copy(update={"settings": manifest.settings | {"seed": 7}}))
    with pytest.raises(UserError, match="ingest was made again after generate: run `retort generate` first"):
        check_lineage(run)


@pytest.mark.parametrize("reads", ["ingest", "compress", "train"])
def test_scores_of_other_problems_or_models_are_refused(tmp_path: Path, reads: str) -> None:
    run = write_filtered(tmp_path / "run", kept=1)
    given = run.output(reads)
    made = given.manifest() or Manifest(stage=reads, version=1, settings={}, inputs={}, shards=())
    given.save(made)
    output = Output(run.path / "evaluate", Score)
    for content, refused in ((made.content_id, False), ("of another result", True)):
        inputs = {reads: content}
        output.save(Manifest(stage="evaluate", version=4, settings={}, inputs=inputs, shards=()))
        output.finish()
        if refused:
            with pytest.raises(UserError, match=f"{reads} was made again after evaluate"):
                check_lineage(run)
        else:
            check_lineage(run)
