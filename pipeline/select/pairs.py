"""Puts an incorrect trace of the same problem next to an example, for objectives that learn from both.

Only traces that were graded incorrect serve, and that pass every other rule: finished, in the right form. So
what differs within a pair is that one is correct. Undecided, truncated and malformed traces are never used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.config.select import Select
from pipeline.rows import Trace
from pipeline.select.chat_format import response_only

GRADERS = ("correct", "majority")  # the rules that compare an answer with the reference or the vote


def rejected_for(
    chosen: Sequence[Trace],
    samples: Sequence[Trace],
    plain: bool,
    select: Select,
    counts: Counter[str],
    ignored: Collection[str] = (),
) -> list[Trace | None]:
    """Returns the rejected trace for each chosen one, each used equally often; None where there is none.

    `ignored`: the filters whose verdicts do not decide.
    """
    if not select.rejected:
        return [None] * len(chosen)
    tags = select.reasoning == "tags" and not plain
    usable = [trace if tags else response_only(trace) for trace in samples if is_usable(trace, tags, ignored)]
    counts["incorrect"] += len(usable)
    if not usable:
        return [None] * len(chosen)
    return [usable[n % len(usable)] for n in range(len(chosen))]


def is_usable(trace: Trace, reasoning: bool, ignored: Collection[str] = ()) -> bool:
    """Whether a trace is incorrect and nothing else is wrong with it.

    Where the rule that grades does not decide, an incorrect trace may be kept, and then it is taught.
    """
    if trace.outcome == "kept":
        return False
    graded = [v.outcome for v in trace.verdicts if v.filter in GRADERS]
    others = [v.outcome for v in trace.verdicts if v.filter not in (*GRADERS, *ignored)]
    complete = bool(trace.response.strip()) and (bool((trace.reasoning or "").strip()) or not reasoning)
    return complete and trace.finish_reason == "stop" and graded == ["failed"] and {*others} <= {"passed"}


def report(select: Select, counts: Mapping[str, int]) -> dict[str, Any]:
    """The numbers of pairs, of usable incorrect traces and of those used; {} if none are stored."""
    return (
        {name: counts[name] for name in ("pairs", "incorrect", "incorrect_used")} if select.rejected else {}
    )
