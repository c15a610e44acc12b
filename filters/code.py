"""Python code as an answer: the last block of code of a response, run against the problem's tests.

A problem's metadata holds its tests, as JSON in one of two forms:

    {"tests": [{"input": "2 3\\n", "output": "5\\n"}]}            # a program, by its standard output
    {"asserts": ["assert f(2) == 3"], "setup": "import math"}    # functions, by Python's own assertions

The program runs in a sandbox (`filters.sandbox`). What a test expects never enters it if it is an output or
what `filters.asserts` can ask for (`assert f(2) == 3`): the comparison is made here, so an object that is
equal to everything, or a program that ends early, gains nothing. Any other assertion has to run beside the
program; there a program that looks for its judge in its own process could deceive it, so the evidence counts
them: "3 tests, 1 inside the program".
"""

from __future__ import annotations

import ast
import math
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from filters.asserts import Asked, asserts_something, read_assert, used_names
from filters.fences import closed_blocks
from filters.finding import Finding, cannot_tell, fit, unfit
from filters.jail import UNKNOWN
from filters.sandbox import Ran, Sandbox, run

if TYPE_CHECKING:
    from pipeline.rows import Trace

TOLERANCE = 1e-6  # of a number for which the reference shows decimals, absolute or relative
NUMBER_CHARS = 64  # of a number that is compared as one
SOURCE_LIMIT = 1_000_000  # characters of a program

Seconds = Annotated[float, Field(gt=0, le=600)]
Megabytes = Annotated[int, Field(ge=64, le=65_536)]

_PYTHON = frozenset({"python", "py", "python3"})
# What a program defines for others. It is not parsed: what a model nests deeply enough can end this process.
_DEFINED = re.compile(
    r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE
)


class _Pair(BaseModel):
    model_config = ConfigDict(frozen=True)
    input: str = ""
    output: str


class Tests(BaseModel):
    """What a problem's metadata says of its tests; other keys are other people's."""

    model_config = ConfigDict(frozen=True)
    tests: tuple[_Pair, ...] = ()
    asserts: tuple[str, ...] = ()
    setup: str = ""


def passes_tests(
    trace: Trace, *, seconds: Seconds = 5.0, memory_mb: Megabytes = 1024, sandbox: Sandbox = "full"
) -> Finding:
    """The program in the response passes all tests of the problem: the last block that fits them.

    As DeepSeek-R1 checks its answers to programming problems (arXiv 2501.12948, 2.2.2 and 2.3.3). `seconds`
    of CPU time are for each input, or for all assertions together.
    """
    blocks = _programs(trace.response)
    if not blocks:
        return cannot_tell("no_answer")
    code = blocks[-1] if len(blocks) == 1 else _fitting(blocks, trace.metadata)
    return run_tests(code, trace.metadata, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox)


def last_block(response: str) -> str | None:
    """The last closed block of code that is marked as Python; without one, the last that is not marked."""
    programs = _programs(response)
    return programs[-1] if programs else None


def _programs(response: str) -> list[str]:
    """The closed blocks of code that are marked as Python; without one, those that are not marked."""
    blocks = list(closed_blocks(response))
    marked = [block.text for block in blocks if block.language in _PYTHON]
    return marked or [block.text for block in blocks if not block.language]


def _fitting(blocks: list[str], metadata: str | None) -> str:
    """The last that defines what the assertions use, as an example of its use does not; or the last."""
    try:
        tests, asked = _read_tests(metadata)
        used = used_names(tests.asserts, tests.setup) if asked else set()
    except (SyntaxError, ValueError):
        return blocks[-1]
    defining = (b for b in reversed(blocks) if any(used.intersection(names) for names in _DEFINED.findall(b)))
    return next(defining, blocks[-1])


def run_tests(
    code: str,
    metadata: str | None,
    *,
    seconds: float = 5.0,
    memory_mb: int = 1024,
    sandbox: Sandbox = "full",
) -> Finding:
    """Run a program against tests (JSON, see above) until one fails.

    A program that is too slow or takes too much memory is wrong: the limits are part of the task. Cannot tell
    where there are no tests, where the sandbox cannot be had ("sandbox_unavailable"), where a module is
    missing, or where the machine was too busy to give the program its time.
    """
    try:
        tests, asked = _read_tests(metadata)
    except ValueError as e:
        return cannot_tell("tests_unreadable", str(e))
    if not tests.tests and not asked:
        return cannot_tell("no_tests")
    if len(code) > SOURCE_LIMIT:
        return unfit("too_long")
    for number, pair in enumerate(tests.tests, 1):
        ran = run(
            code, stdin=pair.input, setup=tests.setup, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox
        )
        found = _judge_output(ran, pair.output, f"test {number}")
        if found.outcome != "pass":
            return found
    if asked:
        checks = [each.check for each in asked]
        ran = run(
            code, setup=tests.setup, checks=checks, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox
        )
        found = _judge_replies(ran, asked)
        if found.outcome != "pass":
            return found
    inside = len({each.number for each in asked if each.inside})
    said = f"{len(tests.tests) + len(tests.asserts)} tests"
    return fit(f"{said}, {inside} inside the program" if inside else said)


def check_tests(metadata: str) -> None:
    """Raise ValueError, with what is wrong in one line, for tests that no program can be run against."""
    tests, _ = _read_tests(metadata)
    if not tests.tests and not tests.asserts:
        raise ValueError("no tests")
    for number, source in enumerate(tests.asserts, 1):
        if not asserts_something(ast.parse(source)):
            raise ValueError(f"assert {number} asserts nothing: {source[:60]!r}")
    try:
        ast.parse(tests.setup)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError(f"setup is not Python: {e}") from None


def _read_tests(metadata: str | None) -> tuple[Tests, list[Asked]]:
    try:
        tests = Tests.model_validate_json(metadata or "{}")
    except ValidationError as e:
        error = e.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise ValueError(f"{where}: {error['msg']}" if where else error["msg"]) from None
    asked = []
    for number, source in enumerate(tests.asserts, 1):
        try:
            asked += read_assert(source, number)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
            raise ValueError(f"assert {number} is not Python: {e}") from None
    return tests, asked


def _judge_output(ran: Ran, expected: str, test: str) -> Finding:
    failure = _failure(ran, test)
    if failure is not None:
        return failure
    said = ran.output.decode("utf-8", "replace")
    return fit() if same_output(expected, said) else unfit("wrong_output", f"{test}: {said[:200]}")


def _judge_replies(ran: Ran, asked: list[Asked]) -> Finding:
    """Wrong where one reply is; cannot tell where one is of a type that may equal a plain value."""
    unknown = None
    for each, reply in zip(asked, ran.replies, strict=False):
        said = f"assert {each.number}: {reply[:200]}"
        if each.holds and UNKNOWN in reply:
            unknown = unknown or cannot_tell("unknown_type", said.replace(UNKNOWN, ""))
        elif each.holds and not each.holds(reply):
            return unfit("wrong_value", said)
    reached = len(ran.replies)
    number = asked[min(reached, len(asked) - 1)].number
    failure = _failure(ran, f"assert {number}")
    if failure is not None:
        return failure
    if reached < len(asked):  # a program that ends before it was asked everything ends well for itself alone
        return unfit("ended_early", f"after {number - 1} of {asked[-1].number}")
    return unknown or fit()


def _failure(ran: Ran, test: str) -> Finding | None:
    """What went wrong with a run, if anything did."""
    if ran.ending == "no_sandbox":
        return cannot_tell("sandbox_unavailable", ran.errors)
    if ran.ending == "starved":
        return cannot_tell("starved", test)
    if ran.ending == "slow":
        return unfit("too_slow", test)
    if ran.overflowed:
        return unfit("too_much_output", test)
    if ran.ending == "killed":
        return unfit("crashed", test)
    if ran.ending == "done":
        return None
    evidence = f"{test}: {ran.errors}"
    if ran.errors.startswith("ModuleNotFoundError"):
        return cannot_tell("missing_module", evidence)
    if ran.errors.startswith("MemoryError"):
        return unfit("too_much_memory", evidence)
    return unfit("wrong_value" if ran.errors.startswith("AssertionError") else "raised", evidence)


def same_output(expected: str, said: str) -> bool:
    """As the usual judges compare: the same words, or numbers within 1e-6 where decimals are expected."""
    wanted, given = expected.split(), said.split()
    return wanted == given or (len(wanted) == len(given) and all(map(_same_word, wanted, given)))


def _same_word(wanted: str, given: str) -> bool:
    if wanted == given:
        return True
    if "." not in wanted or max(len(wanted), len(given)) > NUMBER_CHARS:
        return False
    try:
        a, b = float(wanted), float(given)
    except ValueError:
        return False
    return math.isfinite(a) and abs(a - b) <= TOLERANCE * max(1.0, abs(a))
