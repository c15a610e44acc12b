"""Runs a script of `tools/` in the interpreter of [compress]: a job file in, a result file out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped

SCRIPTS = Path(__file__).parent / "tools"


@dataclass(frozen=True)
class Tools:
    python: Path
    jobs: Path  # folder of the job and result files
    logs: Path

    def run(self, script: str, name: str, job: Mapping[str, Any], doing: str) -> dict[str, Any]:
        """Runs a script with a job and returns its result. `name`: of the job's files and log.

        Raises Stopped, with the last line that the script wrote, if it fails.
        """
        result = self._result(name)
        result.unlink(missing_ok=True)
        file = self.jobs / f"{name}.json"
        self.jobs.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({**job, "result": str(result.absolute())}, indent=2).encode())
        log = self.logs / f"compress-{name}.log"
        command = [str(self.python), "-P", str(SCRIPTS / f"{script}.py"), str(file.absolute())]
        with Child(command, log, environment()) as child:
            code = child.wait()
            if code != 0 or not result.is_file():
                why = child.log_tail(1) or f"exit code {code}"
                raise Stopped(f"{doing} failed: {why} (log: {log})")
        found: dict[str, Any] = json.loads(result.read_bytes())
        return found

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of the last run of this name; None if it did not end well."""
        file = self._result(name)
        found: dict[str, Any] | None = json.loads(file.read_bytes()) if file.is_file() else None
        return found

    def _result(self, name: str) -> Path:
        return self.jobs / f"{name}.result.json"


def environment() -> dict[str, str]:
    """The environment of a script.

    No process may import from the working directory or from the interpreter that runs retort.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    defaults = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return defaults | kept | {"PYTHONSAFEPATH": "1"}
