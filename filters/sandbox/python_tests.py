"""Python code as an answer: the last block of code of a response, run against the problem's tests.

A problem's metadata holds its tests, as JSON in one of two forms:

    {"tests": [{"input": "2 3\\n", "output": "5\\n"}]}            # a program, by its standard output
    {"asserts": ["assert f(2) == 3"], "setup": "import math"}    # functions, by Python's own assertions

The program runs in a sandbox (`filters.sandbox.runner`). What a test expects never enters its process: an
output is compared here, and assertions run in a process of their own, to which the program's values come as
data. So an object that is equal to everything, or a program that ends early, gains nothing. What a program
does is never more than wrong: nothing that it says or raises makes it undecided.
"""

from __future__ import annotations

import ast
import math
import re
from typing import TYPE_CHECKING, Annotated, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from filters.result import FilterResult, failed, passed, undecided
from filters.sandbox.asserts import asserts_something, for_program, read_assertions, without_stubs
from filters.sandbox.runner import Assertions, Ran, Sandbox, run
from filters.text.code_blocks import closed_blocks

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

# Packages that judges elsewhere offer to programs. Only a program's text says that it imports one: what it
# raises is its own to choose.
_ELSEWHERE = re.compile(
    r"^[ \t]*(?:import|from)[ \t]+"
    r"(numpy|scipy|pandas|sympy|networkx|sortedcontainers|numba|sklearn|torch|gmpy2)\b",
    re.MULTILINE,
)


class _Limits(TypedDict):
    seconds: float
    memory_mb: int
    sandbox: Sandbox


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
) -> FilterResult:
    """The program in the response passes all tests of the problem: the last block that fits them.

    As DeepSeek-R1 checks its answers to programming problems (arXiv 2501.12948, 2.2.2 and 2.3.3). `seconds`
    of CPU time are for each input, or for all assertions together.
    """
    blocks = _programs(trace.response)
    if not blocks:
        return undecided("no_answer")
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
        _, assertions = _read_tests(metadata)
    except ValueError:
        return blocks[-1]
    used = set(assertions.names) if assertions else set()
    defining = (b for b in reversed(blocks) if any(used.intersection(names) for names in _DEFINED.findall(b)))
    return next(defining, blocks[-1])


def run_tests(
    code: str,
    metadata: str | None,
    *,
    seconds: float = 5.0,
    memory_mb: int = 1024,
    sandbox: Sandbox = "full",
) -> FilterResult:
    """Run a program against tests (JSON, see above) until one fails.

    A program that is too slow or takes too much memory is wrong: the limits are part of the task. Cannot tell
    where there are no tests, and where a program that fails imports what the sandbox has not and other judges
    have. Raises UserError where there is no sandbox, and Stopped where the machine lacks what a run needs.
    """
    try:
        tests, assertions = _read_tests(metadata)
    except ValueError as e:
        return undecided("tests_unreadable", str(e))
    if not tests.tests and not assertions:
        return undecided("no_tests")
    if len(code) > SOURCE_LIMIT:
        return failed("too_long")
    limits: _Limits = {"seconds": seconds, "memory_mb": memory_mb, "sandbox": sandbox}
    found = passed()
    setup = for_program(assertions) if assertions else tests.setup
    for number, pair in enumerate(tests.tests, 1):
        ran = run(code, stdin=pair.input, setup=setup, **limits)
        found = _judge_output(ran, pair.output, f"test {number}")
        if found.outcome != "passed":
            break
    if found.outcome == "passed" and assertions:
        ran = run(code, setup=setup, assertions=assertions, **limits)
        found = _judge_report(ran, len(assertions.sources))
    if found.outcome == "failed" and (missing := _ELSEWHERE.search(code)):
        return undecided("missing_module", f"{missing[1]}; {found.reason}: {found.evidence}")
    if found.outcome == "passed":
        return passed(f"{len(tests.tests) + len(tests.asserts)} tests")
    return found


def check_tests(metadata: str) -> None:
    """Raise ValueError, with what is wrong in one line, for tests that no program can be run against."""
    tests, _ = _read_tests(metadata)
    if not tests.tests and not tests.asserts:
        raise ValueError("no tests")
    for number, source in enumerate(tests.asserts, 1):
        if not asserts_something(ast.parse(source)):
            raise ValueError(f"assert {number} asserts nothing: {source[:60]!r}")


def _read_tests(metadata: str | None) -> tuple[Tests, Assertions | None]:
    try:
        tests = Tests.model_validate_json(metadata or "{}")
    except ValidationError as e:
        error = e.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise ValueError(f"{where}: {error['msg']}" if where else error["msg"]) from None
    for number, source in enumerate(tests.asserts, 1):
        _check_python(source, f"assert {number}")
    _check_python(tests.setup, "setup")
    tests = tests.model_copy(update={"setup": without_stubs(tests.setup)})
    return tests, read_assertions(tests.asserts, tests.setup) if tests.asserts else None


def _check_python(source: str, what: str) -> None:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError(f"{what} is not Python: {e}") from None


def _judge_output(ran: Ran, expected: str, test: str) -> FilterResult:
    failure = _failure(ran, test)
    if failure is not None:
        return failure
    said = ran.output.decode("utf-8", "replace")
    return passed() if same_output(expected, said) else failed("wrong_output", f"{test}: {said[:200]}")


def _judge_report(ran: Ran, count: int) -> FilterResult:
    """By what the assertions' process reports, and by how the program's ended if they met its end."""
    last = ran.report[-1] if ran.report else {}
    number = last.get("failed", last.get("passed", 0) + 1)
    failure = _failure(ran, f"assert {min(number, count)}")
    if failure is not None:
        return failure
    if "failed" in last:
        return failed(last["reason"], f"assert {number}: {last['evidence']}")
    return passed() if number > count else failed("ended_early", f"after {number - 1} of {count}")


def _failure(ran: Ran, test: str) -> FilterResult | None:
    """What went wrong with a run, if anything did."""
    if ran.ending == "slow":
        return failed("too_slow", test)
    if ran.overflowed:
        return failed("too_much_output", test)
    if ran.ending == "killed":
        return failed("crashed", test)
    if ran.ending == "done":
        return None
    evidence = f"{test}: {ran.errors}"
    if ran.errors.startswith("MemoryError"):
        return failed("too_much_memory", evidence)
    return failed("wrong_value" if ran.errors.startswith("AssertionError") else "raised", evidence)


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
