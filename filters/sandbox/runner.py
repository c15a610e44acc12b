"""Run a program that nobody vouches for, in a process away from ours, within limits; say how it ended.

What it gives up first is in `filters.sandbox.restrict`, the process that starts and ends it in
`filters.sandbox.keeper`. All that it can say goes to files in memory whose size the kernel bounds. With
assertions, these run in a process beside it (`filters.sandbox.inside`), so nothing that is expected of it is
where it could look.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filters.isolated.pool import Kept, WorkerError
from pipeline.errors import Stopped, UserError

OUTPUT_LIMIT = 8 << 20  # bytes of standard output, of errors, of the report
# The keeper has the standard library alone, and of this package what it names: it stands for a package here.
_START = """
import sys, types
package = sys.modules["filters"] = types.ModuleType("filters")
package.__path__ = [sys.argv[2]]
from filters.sandbox.keeper import main
main()
"""
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # sets have the same order in every run

Sandbox = Literal["full", "limits"]
Ending = Literal["done", "raised", "slow", "killed"]


class Assertions(NamedTuple):
    """Statements to run against a program, and where the names come from that they use."""

    sources: tuple[str, ...]
    setup: str  # what runs before them
    names: tuple[str, ...]  # of the program
    modules: tuple[tuple[str, str], ...]  # of the standard library: a name, and the module it is or is in


class Ran(NamedTuple):
    ending: Ending
    output: bytes
    errors: str  # the last line of its errors
    report: list[dict[str, Any]]  # of the assertions: {"passed": 1}, or {"failed": 2, "reason": ..., ...}
    overflowed: bool  # it tried to say more than OUTPUT_LIMIT


def run(
    code: str,
    *,
    stdin: str = "",
    setup: str = "",
    assertions: Assertions | None = None,
    seconds: float,
    memory_mb: int,
    sandbox: Sandbox = "full",
) -> Ran:
    """Run `code`, after `setup`, with `stdin`; `seconds` are of CPU time.

    The assertions have a setup of their own. With them it runs as a module that is imported, without them as
    the main program. With the sandbox "limits" nothing but the limits protects, for machines whose kernel has
    no Landlock or seccomp: such a program can read and write what its id can, reach the network, and leave
    processes behind that changed their group; the rest of what it started is killed with it.

    Raises UserError where this system has no sandbox, and Stopped where the machine lacks what a run needs:
    neither says anything of the program.
    """
    asked = {
        "code": code,
        "setup": setup,
        "asserts": assertions is not None,
        "seconds": seconds,
        "memory": memory_mb << 20,
        "output": OUTPUT_LIMIT,
        "protect": sandbox == "full",
    }
    try:
        with ExitStack() as stack:
            files = [
                stack.enter_context(os.fdopen(os.memfd_create("sandbox"), "w+b", buffering=0))
                for _ in range(6)
            ]
            request, given, said, failed, tests, report = files
            request.write(json.dumps(asked).encode())
            given.write(stdin.encode("utf-8", "backslashreplace"))
            tests.write(json.dumps(assertions._asdict() if assertions else None).encode())
            for file in (given, tests):
                file.seek(0)
            answer = _ask([file.fileno() for file in files])
            return _as_ran(
                answer, *(os.pread(file.fileno(), OUTPUT_LIMIT, 0) for file in (said, failed, report))
            )
    except OSError as e:
        raise Stopped(f"no program can be run: {e.strerror or e}") from e


def _ask(descriptors: Sequence[int]) -> dict[str, Any]:
    """Ask the keeper to run what the request says; how that ended."""
    with _keeper.slots, _keeper.connect(*descriptors) as connection:
        said = os.read(connection.fileno(), 1 << 20)  # one message, then the end
    if not said:
        raise WorkerError("the sandbox has ended before it answered")
    answer: dict[str, Any] = json.loads(said)
    if answer["ending"] == "lacking":
        raise Stopped(f"no program can be run: {answer['text']}")
    if answer["ending"] == "unsupported":
        raise UserError(
            f"this system has no sandbox for programs ({answer['text']}): docs/sandbox.md says what it "
            'needs, and what sandbox = "limits" under [filter.rules.correct] does without'
        )
    if answer["ending"] == "error":
        raise RuntimeError(answer["text"])
    return answer


def _as_ran(answer: dict[str, Any], said: bytes, failed: bytes, report: bytes) -> Ran:
    overflowed = max(len(said), len(failed)) >= OUTPUT_LIMIT
    errors = failed[-4000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
    return Ran(answer["ending"], said, errors, [json.loads(line) for line in report.splitlines()], overflowed)


_keeper = Kept(
    [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", _START],
    [str(Path(__file__).parents[1])],
    lambda: _ENVIRONMENT,
)
