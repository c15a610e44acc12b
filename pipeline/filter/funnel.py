"""Counts what became of the traces: kept, rejected or undecided by reason, and what each rule does alone.

traces = kept + rejected + undecided; each trace is counted under the first rule that decided it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engine.query import query
from pipeline.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa

_BY_REASON = "select outcome, reason, count(*) from rows group by all order by count(*) desc, reason"
_BY_RULE = """
select
    verdict.filter,
    count(*) filter (verdict.outcome = 'failed'),
    count(*) filter (verdict.outcome = 'failed' and failures = 1),
    count(*) filter (verdict.outcome = 'undecided')
from (
    select
        unnest(verdicts) as verdict,
        generate_subscripts(verdicts, 1) as position,
        len(list_filter(verdicts, lambda v: v.outcome = 'failed')) as failures
    from rows
)
group by verdict.filter
order by max(position), verdict.filter
"""


class Rule(Row):
    """Verdicts of one rule on all traces, whatever the other rules say."""

    failed: int
    failed_alone: int  # of the failed traces, those that pass every other rule or are undecided there
    undecided: int


class Yield(Row):
    traces: int
    kept: int
    rejected: dict[str, int]  # "rule: reason" -> traces, most frequent first
    undecided: dict[str, int]


class Funnel(Yield):
    rules: dict[str, Rule]  # in the order in which they are applied
    suspects: int | None = None  # problems whose reference may be wrong; None where they are not searched


def funnel(verdicts: Sequence[Path] | pa.Table) -> Funnel:
    """Returns the funnel of TraceVerdicts in sealed files or in a table."""
    reasons: dict[str, dict[str, int]] = {}
    for outcome, reason, count in query(verdicts, ("outcome", "reason"), _BY_REASON):
        reasons.setdefault(outcome, {})[reason] = count
    rules = query(verdicts, ("verdicts",), _BY_RULE)
    return Funnel(
        traces=sum(sum(counts.values()) for counts in reasons.values()),
        kept=sum(reasons.get("kept", {}).values()),
        rejected=reasons.get("rejected", {}),
        undecided=reasons.get("undecided", {}),
        rules={
            name: Rule(failed=failed, failed_alone=alone, undecided=undecided)
            for name, failed, alone, undecided in rules
        },
    )
