"""A rule of the filter stage sees the whole trace, as the types of `pipeline.rows` describe it."""

from pathlib import Path

import pytest

from pipeline.config.filters import Filter
from pipeline.engine.shard import Shard
from pipeline.filter.apply import FilterContext, filter_shard
from pipeline.rows import Logprobs, Sampling, Trace, TraceVerdicts
from tests.unit.filters.test_table import a_trace

OWN = """
from filters.result import passed
def shown(trace):
    return passed(f"{trace.sampling.max_tokens} {trace.logprobs.reasoning_tokens}")
"""


def test_rules_see_sampling_settings_and_log_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    texts = {"reasoning": "a" * 10, "response": "b" * 90, "completion_tokens": 100}
    sampling = Sampling(temperature=0.6, top_p=None, max_tokens=256)
    logprobs = Logprobs(reasoning_tokens=90, logprobs=(-0.5,) * 100)
    traces, verdicts = Shard(tmp_path, "s", Trace, {}), Shard(tmp_path, "v", TraceVerdicts, {})
    traces.write([a_trace(**texts, sampling=sampling, logprobs=logprobs).model_dump()])
    filter_shard(FilterContext(Filter(rules={"length": {}, "own.py:shown": {}})), traces, verdicts)
    (row,) = verdicts.rows()
    assert [(v.outcome, v.evidence) for v in row.verdicts] == [("passed", "90 + 10"), ("passed", "256 90")]
