"""Rows of one model, such as the judge's verdicts."""

from pathlib import Path

from pipeline.engine.journal import done_line
from pipeline.engine.shard import Shard
from pipeline.generate.asking import count_errors
from pipeline.rows import JudgeVerdict


def verdict(id: str, error: str | None = None) -> JudgeVerdict:
    return JudgeVerdict(
        id=id, trace_id="p-0-0000", model="m", prompt_hash="h", outcome="undecided", reason="unclear",
        reasoning=None, answer="", finish_reason="stop", prompt_tokens=None, completion_tokens=None,
        error=error,
    )  # fmt: skip


def test_failures_that_an_earlier_command_accepted_are_counted(tmp_path: Path) -> None:
    sealed, still_open = (Shard(tmp_path, name, JudgeVerdict, {}) for name in ("a", "b"))
    sealed.write(row.model_dump() for row in (verdict("1"), verdict("2", "HTTP 500")))
    still_open.append([done_line(verdict("3", "HTTP 500")), done_line(verdict("4"))])
    assert count_errors([sealed, still_open]) == 2
