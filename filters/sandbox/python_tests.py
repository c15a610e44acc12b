"""Grades Python programs: runs the last code block of a response against the tests of its problem.

A problem's metadata holds its tests as JSON, in one of two forms:

    {"tests": [{"input": "2 3\\n", "output": "5\\n"}]}            # a program, by its standard output
    {"asserts": ["assert f(2) == 3"], "setup": "import math"}    # functions, by Python assertions

The program runs in a sandbox (`filters.sandbox.runner`). Expected values never enter its process: outputs are
compared here, and assertions run in a process of their own, which receives the program's values as data. So
an object that equals everything, or a program that exits early, gains nothing. A program cannot become
undecided by what it prints or raises: it passes or fails.
"""

from __future__ import annotations

import ast
import math
import re
from functools import partial

from pydantic import BaseModel, ConfigDict, ValidationError

from filters.result import FilterResult, failed, passed, undecided
from filters.sandbox.asserts import asserts_something, read_assertions, setup_for_program, without_stubs
from filters.sandbox.runner import Assertions, RunResult, Sandbox, run
from filters.text.code_blocks import code_blocks
from pipeline.rows import Trace

TOLERANCE = 1e-6  # absolute or relative, for expected numbers with decimals
MAX_NUMBER = 64  # characters of a number to parse
SOURCE_LIMIT = 1_000_000  # characters of a program

_PYTHON = frozenset({"python", "py", "python3"})
# Names that a program defines. It is not parsed, since deeply nested code can crash this process.
_DEFINED = re.compile(
    r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE
)
_PRINTS = re.compile(r"\bprint\b|\bstdout\b|\bos\.write\b")

# Packages that other graders provide. Their import is recognized by the program's text, since a program can
# raise any exception.
_THIRD_PARTY = re.compile(
    r"^[ \t]*(?:import|from)[ \t]+"
    r"(numpy|scipy|pandas|sympy|networkx|sortedcontainers|numba|sklearn|torch|gmpy2)\b",
    re.MULTILINE,
)


class _Pair(BaseModel):
    model_config = ConfigDict(frozen=True)
    input: str = ""
    output: str


class Tests(BaseModel):
    """The tests in a problem's metadata, whose other keys are ignored."""

    model_config = ConfigDict(frozen=True)
    tests: tuple[_Pair, ...] = ()
    asserts: tuple[str, ...] = ()
    setup: str = ""


def passes_tests(
    trace: Trace, *, seconds: float = 5.0, memory_mb: int = 1024, sandbox: Sandbox = "full"
) -> FilterResult:
    """The program in the response passes all tests of the problem.

    DeepSeek-R1 checks its answers to programming problems like this (arXiv 2501.12948, sections 2.2.2 and
    2.3.3). `seconds` of CPU time apply to each input, or to all assertions together.
    """
    programs = _programs(trace.response)
    if not programs:
        return undecided("no_answer")
    code = programs[-1] if len(programs) == 1 else _tested_program(programs, trace.metadata)
    return run_tests(code, trace.metadata, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox)


def last_block(response: str) -> str | None:
    """The last closed code block marked as Python, or else the last without a language."""
    programs = _programs(response)
    return programs[-1] if programs else None


def _programs(response: str) -> list[str]:
    """The closed code blocks marked as Python, or else those without a language."""
    blocks = list(code_blocks(response))
    marked = [block.text for block in blocks if block.language in _PYTHON]
    return marked or [block.text for block in blocks if not block.language]


def _tested_program(programs: list[str], metadata: str | None) -> str:
    """The last program that defines a name the assertions use, or that prints if outputs are compared.

    Blocks after it may show its use or a sample of its output. Without such a program, the last block.
    """
    try:
        _, assertions = _read_tests(metadata)
    except ValueError:
        return programs[-1]
    used = set(assertions.names) if assertions else set()
    for program in reversed(programs):
        if not assertions and _PRINTS.search(program):
            return program
        if any(used.intersection(names) for names in _DEFINED.findall(program)):
            return program
    return programs[-1]


def run_tests(
    code: str,
    metadata: str | None,
    *,
    seconds: float = 5.0,
    memory_mb: int = 1024,
    sandbox: Sandbox = "full",
) -> FilterResult:
    """Runs a program against tests (JSON, see above) until one fails.

    A program that is too slow or uses too much memory fails, since the limits are part of the task. Undecided
    without tests, and if a failing program imports a package that other graders provide. Raises UserError if
    there is no sandbox, and Stopped if the system lacks resources.
    """
    try:
        tests, assertions = _read_tests(metadata)
    except ValueError as e:
        return undecided("tests_unreadable", str(e))
    if not tests.tests and not assertions:
        return undecided("no_tests")
    if len(code) > SOURCE_LIMIT:
        return failed("too_long")
    setup = setup_for_program(assertions) if assertions else tests.setup
    run_program = partial(run, code, setup=setup, seconds=seconds, memory_mb=memory_mb, sandbox=sandbox)
    result = passed()
    for number, pair in enumerate(tests.tests, 1):
        result = _grade_output(run_program(stdin=pair.input), pair.output, f"test {number}")
        if result.outcome != "passed":
            break
    if result.outcome == "passed" and assertions:
        result = _grade_report(run_program(assertions=assertions), len(assertions.sources))
    if result.outcome == "passed":
        return passed(f"{len(tests.tests) + len(tests.asserts)} tests")
    if missing := _THIRD_PARTY.search(code):
        return undecided("missing_module", f"{missing[1]}; {result.reason}: {result.evidence}")
    return result


def check_tests(metadata: str) -> None:
    """Raises ValueError, with a message of one line, for tests that no program can be run against."""
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


def _grade_output(ran: RunResult, expected: str, test: str) -> FilterResult:
    if failure := _failure(ran, test):
        return failure
    output = ran.output.decode("utf-8", "replace")
    return passed() if same_output(expected, output) else failed("wrong_output", f"{test}: {output[:200]}")


def _grade_report(ran: RunResult, count: int) -> FilterResult:
    """Grades by the report of the assertions' process and the way the program ended."""
    last = ran.report[-1] if ran.report else {}
    number = last.get("failed", last.get("passed", 0) + 1)
    if failure := _failure(ran, f"assert {min(number, count)}"):
        return failure
    if "failed" in last:
        return failed(last["reason"], f"assert {number}: {last['evidence']}")
    return passed() if number > count else failed("ended_early", f"after {number - 1} of {count}")


def _failure(ran: RunResult, test: str) -> FilterResult | None:
    """The failure of a run that did not end normally."""
    if ran.ending == "slow":
        return failed("too_slow", test)
    if ran.overflowed:
        return failed("too_much_output", test)
    if ran.ending == "killed":
        return failed("crashed", test)
    if ran.ending == "done":
        return None
    evidence = f"{test}: {ran.error}"
    if ran.error.startswith("MemoryError"):
        return failed("too_much_memory", evidence)
    return failed("wrong_value" if ran.error.startswith("AssertionError") else "raised", evidence)


def same_output(expected: str, output: str) -> bool:
    """Compares as online judges do: the same words, or numbers within 1e-6 if decimals are expected."""
    a, b = expected.split(), output.split()
    return a == b or (len(a) == len(b) and all(map(_same_word, a, b)))


def _same_word(expected: str, word: str) -> bool:
    if expected == word:
        return True
    if "." not in expected or max(len(expected), len(word)) > MAX_NUMBER:
        return False
    try:
        a, b = float(expected), float(word)
    except ValueError:
        return False
    return math.isfinite(a) and abs(a - b) <= TOLERANCE * max(1.0, abs(a))
