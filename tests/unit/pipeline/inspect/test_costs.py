"""What traces cost: those that a source gave cost nothing, and no server failed to count them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.engine.store import Output
from pipeline.inspect.costs import Cost, costs, spend_per_kept
from pipeline.inspect.run import open_run
from pipeline.rows import Trace
from tests.small_run import NAMES, write_filtered

GIVEN = dict.fromkeys(("prompt", "prompt_hash", "sampling", "seed", "prompt_tokens"))


def uncounted(folder: Path, **changed: Any) -> int:
    """The number of traces without counts, where the first trace of a run is changed like this."""
    run = write_filtered(folder, kept=1)
    output = Output(run.path / "generate", Trace)
    rows = list(output.shard(NAMES[0]).rows())
    output.shard(NAMES[0]).path.unlink()
    output.write(NAMES[0], [rows[0].model_copy(update=changed), *rows[1:]])
    return sum(cost.uncounted for cost in costs(open_run(run.path)))


def test_given_traces_are_no_traces_whose_server_counted_none(tmp_path: Path) -> None:
    assert uncounted(tmp_path / "sampled") == 0
    assert uncounted(tmp_path / "uncounted", prompt_tokens=None) == 1
    assert uncounted(tmp_path / "given", **GIVEN) == 0


def test_spent_per_kept_trace_leaves_out_the_traces_whose_price_is_not_known() -> None:
    def part(spend: float | None, kept: int | None) -> Cost:
        return Cost(teacher="t", source="s", traces=9, prompt_tokens=1, completion_tokens=1, uncounted=0,
                    spend=spend, kept=kept)  # fmt: skip

    assert spend_per_kept([part(10.0, 5), part(None, 95)]) == 2.0
    assert spend_per_kept([part(None, 5)]) is None
    assert spend_per_kept([part(10.0, None)]) is None
