"""The files through which a stage and a process that reads models talk. Light to import."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError


class ProcessJob(BaseModel):
    """What such a process needs to know. The stage writes it; the process writes its results, or why not."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str  # hub name or folder
    cache: Path  # folder of the job and the results

    @property
    def file(self) -> Path:
        """This job as JSON."""
        return self.cache / "job.json"

    @property
    def refusal(self) -> Path:
        """The one-line reason why the process refused."""
        return self.cache / "refused.txt"

    def refuse(self, error: UserError) -> int:
        """Leaves the reason to the stage, in the process. Returns the exit code."""
        self.refusal.write_text(f"{error}\n", encoding="utf-8")
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2

    def check_refusal(self) -> None:
        """Raises UserError, in the stage, if the process refused."""
        if self.refusal.exists():
            raise UserError(self.refusal.read_text("utf-8").strip())
