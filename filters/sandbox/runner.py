"""Runs an untrusted program in a sandboxed process with limits, and reports how it ended.

`filters.sandbox.fork_server` starts and ends the process, after `filters.sandbox.restrict` has restricted it.
The program's output goes to files in memory whose size the kernel limits. Assertions run in a second process
(`filters.sandbox.inside`), so that the program's process contains no expected values.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from filters.isolated.pool import CheckerError, ForkServer
from pipeline import shipped
from pipeline.errors import Stopped, UserError

OUTPUT_LIMIT = 8 << 20  # bytes each of standard output, standard error and the report
# The fork server needs only the standard library and filters.sandbox, so `filters` is a stub without imports.
_START = """
import sys, types
package = sys.modules["filters"] = types.ModuleType("filters")
package.__path__ = [sys.argv[2]]
from filters.sandbox.fork_server import main
main()
"""
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # gives sets the same order in every run

Sandbox = Literal["full", "limits"]
Ending = Literal["done", "raised", "slow", "killed"]


class Assertions(NamedTuple):
    """Statements to run against a program, and the origin of the names they use."""

    sources: tuple[str, ...]
    setup: str  # runs before them
    names: tuple[str, ...]  # defined by the program
    modules: tuple[tuple[str, str], ...]  # from the standard library: a name, and its module


class RunResult(NamedTuple):
    ending: Ending
    output: bytes  # standard output
    error: str  # the last line of standard error
    report: list[dict[str, Any]]  # of the assertions: {"passed": 1}, or {"failed": 2, "reason": ..., ...}
    overflowed: bool  # the program wrote more than OUTPUT_LIMIT


def run(
    code: str,
    *,
    stdin: str = "",
    setup: str = "",
    assertions: Assertions | None = None,
    seconds: float,
    memory_mb: int,
    sandbox: Sandbox = "full",
) -> RunResult:
    """Runs `setup` and then `code`, with `stdin` as its input and `seconds` of CPU time.

    With assertions, which have their own setup, the code runs as an imported module, else as the main
    program. The sandbox "limits" sets resource limits only, for kernels without Landlock or seccomp. Such a
    program can use the files and network that its user can, and leave processes behind that changed their
    process group; its other processes are killed.

    Raises UserError if this system has no sandbox, and Stopped if it lacks resources. Neither says anything
    about the program.
    """
    settings = {
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
            request, standard_input, output, errors, tests, report = files
            request.write(json.dumps(settings).encode())
            standard_input.write(stdin.encode("utf-8", "backslashreplace"))
            tests.write(json.dumps(assertions._asdict() if assertions else None).encode())
            for file in (standard_input, tests):
                file.seek(0)
            ending = _request([file.fileno() for file in files])
            said, complained, lines = (
                os.pread(file.fileno(), OUTPUT_LIMIT, 0) for file in (output, errors, report)
            )
    except OSError as e:
        raise Stopped(f"no program can be run: {e.strerror or e}") from e
    error = complained[-4000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
    overflowed = max(len(said), len(complained)) >= OUTPUT_LIMIT
    return RunResult(ending, said, error, [json.loads(line) for line in lines.splitlines()], overflowed)


def _request(descriptors: Sequence[int]) -> Ending:
    """Sends a request to the fork server and returns how the program ended."""
    with _fork_server.slots, _fork_server.connect(*descriptors) as connection:
        reply = os.read(connection.fileno(), 1 << 20)  # one message
    if not reply:
        raise CheckerError("the sandbox has ended before it answered")
    answer: dict[str, Any] = json.loads(reply)
    if answer["ending"] == "no_resources":
        raise Stopped(f"no program can be run: {answer['text']}")
    if answer["ending"] == "unsupported":
        raise UserError(
            f"this system has no sandbox for programs ({answer['text']}): {shipped.page('sandbox.md')} says "
            'what it needs, and what sandbox = "limits" under [filter.rules.correct] does without'
        )
    if answer["ending"] == "error":
        raise RuntimeError(answer["text"])
    return cast(Ending, answer["ending"])


_fork_server = ForkServer(
    [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", _START],
    [str(Path(__file__).parents[1])],
    lambda: _ENVIRONMENT,
)
