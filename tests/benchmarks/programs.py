"""The cost of grading a program in the sandbox, compared with a bare `python -c` without any.

python -m tests.benchmarks.programs [--programs 400] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from filters.sandbox.python_tests import run_tests

FUNCTION = "def f(x):\n    return x + 1"
ASSERTS = json.dumps({"asserts": [f"assert f({n}) == {n + 1}" for n in range(3)]})
PROGRAM = "import collections, heapq, re\nprint(sum(map(int, input().split())))"
OUTPUT = json.dumps({"tests": [{"input": "2 3", "output": "5"}]})


def asserted() -> None:
    assert run_tests(FUNCTION, ASSERTS).outcome == "passed"


def printed() -> None:
    assert run_tests(PROGRAM, OUTPUT).outcome == "passed"


def bare() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM], input=b"2 3", capture_output=True, check=True
    )
    assert done.stdout == b"5\n"


def per_second(run: Callable[[], None], programs: int, threads: int) -> float:
    run()  # the fork server starts with the first
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda _: run(), range(programs)):
            pass
    return programs / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    table = Table("program", "a second")
    for name, run in (
        ("a function, 3 assertions", asserted),
        ("an output, 3 imports", printed),
        ("bare", bare),
    ):
        table.add_row(name, f"{per_second(run, given.programs, given.threads):.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
