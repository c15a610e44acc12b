"""Time and memory to open a large run in Python and to read from it.

    python -m tests.benchmarks.opening [--traces 1000000] [--run FOLDER]

Each line is one process: seconds, CPU seconds, peak memory, imports included. Without
--run the run is made first: traces of 2 kB, four a problem, as in filtering.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.filtering import build

LOOKS = {
    "open": "run.problems, run.traces, run.verdicts, run.examples, run.scores",
    "len(run.traces)": "len(run.traces)",
    "one trace": "next(iter(run.traces))",
    "sample of 5": "list(run.sample(5))",
    "sample of 5 where": "list(run.sample(5, finish_reason='stop', source='problems'))",
    "problem by id": "run.problem(run.problems.head(1)[0].id)",
    "sql, group by": "run.sql('select source, count(*), max(seed) from traces group by 1').fetchall()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path, help="a run that is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.run is None:
            build(Path(temporary), options.traces)
        run = options.run or Path(temporary) / "bench"
        for name, code in LOOKS.items():
            look(name, f"from pipeline import open_run; run = open_run({str(run)!r}); {code}")


def look(name: str, code: str) -> None:
    began = time.perf_counter()
    told = "import resource; r = resource.getrusage(resource.RUSAGE_SELF)"
    told += "; print(r.ru_utime + r.ru_stime, r.ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    cpu, peak = map(float, done.stdout.split()[-2:])
    print(f"{name:20} {seconds:6.2f} s {cpu:6.2f} s CPU {peak / 1024:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
