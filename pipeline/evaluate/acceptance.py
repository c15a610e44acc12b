"""The table of drafts: how much of what a model proposes in speculative decoding a teacher would accept.

Pure functions over rows. drafts.py makes the rows, bootstrap.py the intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate
from pipeline.model_rows import DraftScore
from pipeline.rows import Row


class DraftQuality(Row):
    """A draft of a teacher on one set: a line of the table."""

    set: str
    teacher: str  # its role
    model_role: str  # of the draft
    problems: int
    tokens: int
    acceptance: Estimate  # alpha, the mean of sum min(p, q) over the tokens
    accepted: Estimate  # tokens that one pass of the teacher gives, with `draft_tokens` proposals
    same: float  # share of the tokens at which both find the same token likeliest
    draft_tokens: int


def table(rows: Iterable[DraftScore], draft_tokens: int) -> list[DraftQuality]:
    """One line for each set, teacher and draft, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[DraftScore]] = {}
    for row in rows:
        groups.setdefault((row.set, row.teacher, row.model_role), []).append(row)
    return [_quality(group, draft_tokens) for group in groups.values()]


def _quality(rows: Sequence[DraftScore], draft_tokens: int) -> DraftQuality:
    tokens = np.array([row.tokens for row in rows], float)
    alpha = bootstrap.ratio(np.array([row.accepted for row in rows]), tokens)
    assert alpha is not None, "every text has tokens"
    return DraftQuality(
        set=rows[0].set,
        teacher=rows[0].teacher,
        model_role=rows[0].model_role,
        problems=len(rows),
        tokens=int(tokens.sum()),
        acceptance=alpha,
        accepted=Estimate(*(accepted_length(each, draft_tokens) for each in alpha)),
        same=sum(row.same for row in rows) / float(tokens.sum()),
        draft_tokens=draft_tokens,
    )


def accepted_length(alpha: float, draft_tokens: int) -> float:
    """(1 - alpha^(gamma + 1)) / (1 - alpha): the expected tokens of one pass of the teacher.

    With gamma proposals, each accepted with probability alpha (Leviathan et al. 2022, equation 1).
    """
    return sum(alpha**n for n in range(draft_tokens + 1))
