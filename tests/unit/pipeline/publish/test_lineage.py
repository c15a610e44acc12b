"""A card tells of the problems behind the published traces, not of others."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
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
