"""Python code as an answer: the last block of code of a response, run against the problem's tests.

A problem's metadata holds its tests, as JSON in one of two forms:

    {"tests": [{"input": "2 3\\n", "output": "5\\n"}]}            # a program, by its standard output
    {"asserts": ["assert f(2) == 3"], "setup": "import math"}    # functions, by Python's own assertions

The program runs in a sandbox (`filters.sandbox`). What a test expects never enters it if it is an output or
a plain value (`assert f(2) == 3`): the program is asked for its value, and the comparison is made here, so an
object that is equal to everything, or a program that ends early, gains nothing. Any other assertion has to
run beside the program; there a program that looks for its judge in its own process could deceive it.
"""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from filters.fences import closed_blocks
from filters.finding import Finding, cannot_tell, fit, unfit
from filters.jail import canonical
from filters.sandbox import Check, Ran, Sandbox, run

if TYPE_CHECKING:
    from pipeline.rows import Trace

TOLERANCE = 1e-6  # of a number for which the reference shows decimals, absolute or relative
NUMBER_CHARS = 64  # of a number that is compared as one
SOURCE_LIMIT = 1_000_000  # characters of a program

Seconds = Annotated[float, Field(gt=0, le=600)]
Megabytes = Annotated[int, Field(ge=64, le=65_536)]

_PYTHON = frozenset({"python", "py", "python3"})


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


class _Assert(NamedTuple):
    check: Check
    expected: str | None  # the canonical text of the value; None where it only has to run


def passes_tests(
    trace: Trace, *, seconds: Seconds = 5.0, memory_mb: Megabytes = 1024, sandbox: Sandbox = "full"
) -> Finding:
    """The last block of Python in the response passes all tests of the problem.

    As DeepSeek-R1 checks its answers to programming problems (arXiv 2501.12948, 2.2.2 and 2.3.3). `seconds`
    of CPU time are for each input, or for all assertions together.
    """
    code = last_block(trace.response)
    if code is None:
        return unfit("no_code")
    return run_tests(code, trace.metadata, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox)


def last_block(response: str) -> str | None:
    """The last closed block of code that is marked as Python; without one, the last that is not marked."""
    marked = plain = None
    for block in closed_blocks(response):
        if block.language in _PYTHON:
            marked = block.text
        elif not block.language:
            plain = block.text
    return plain if marked is None else marked


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
        tests, asserts = _read_tests(metadata)
    except ValueError as e:
        return cannot_tell("tests_unreadable", str(e))
    if not tests.tests and not asserts:
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
    if asserts:
        checks = [a.check for a in asserts]
        ran = run(
            code, setup=tests.setup, checks=checks, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox
        )
        found = _judge_replies(ran, asserts)
        if found.outcome != "pass":
            return found
    return fit(f"{len(tests.tests) + len(asserts)} tests")


def check_tests(metadata: str) -> None:
    """Raise ValueError, with what is wrong in one line, for tests that no program can be run against."""
    tests, asserts = _read_tests(metadata)
    if not tests.tests and not asserts:
        raise ValueError("no tests")
    for number, (source, read) in enumerate(zip(tests.asserts, asserts, strict=True), 1):
        if read.check.kind == "run" and not any(
            isinstance(n, ast.Assert) for n in ast.walk(ast.parse(source))
        ):
            raise ValueError(f"assert {number} asserts nothing: {source[:60]!r}")
    try:
        ast.parse(tests.setup)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError(f"setup is not Python: {e}") from None


def _read_tests(metadata: str | None) -> tuple[Tests, list[_Assert]]:
    try:
        tests = Tests.model_validate_json(metadata or "{}")
    except ValidationError as e:
        error = e.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise ValueError(f"{where}: {error['msg']}" if where else error["msg"]) from None
    asserts = []
    for number, source in enumerate(tests.asserts, 1):
        try:
            asserts.append(_read_assert(source))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
            raise ValueError(f"assert {number} is not Python: {e}") from None
    return tests, asserts


def _read_assert(source: str) -> _Assert:
    """An assertion that an expression equals a plain value is asked for the expression alone."""
    statements = ast.parse(source).body
    if len(statements) == 1 and isinstance(statements[0], ast.Assert):
        test = statements[0].test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            for asked, told in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
                try:
                    expected = canonical(ast.literal_eval(told))
                except ValueError:
                    continue
                return _Assert(Check("value", ast.unparse(asked)), expected)
    return _Assert(Check("run", source), None)


def _judge_output(ran: Ran, expected: str, test: str) -> Finding:
    failure = _failure(ran, test)
    if failure is not None:
        return failure
    said = ran.output.decode("utf-8", "replace")
    return fit() if same_output(expected, said) else unfit("wrong_output", f"{test}: {said[:200]}")


def _judge_replies(ran: Ran, asserts: list[_Assert]) -> Finding:
    for number, (told, reply) in enumerate(zip(asserts, ran.replies, strict=False), 1):
        if told.expected is not None and reply != told.expected:
            return unfit("wrong_value", f"assert {number}: {reply[:200]}")
    reached = len(ran.replies)
    failure = _failure(ran, f"assert {reached + 1}")
    if failure is not None:
        return failure
    # A program that ends before it was asked everything ends well for itself alone.
    return fit() if reached == len(asserts) else unfit("ended_early", f"after {reached} of {len(asserts)}")


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
