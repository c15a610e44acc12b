"""`retort report` on a run of many traces: seconds, memory, bytes of the file.

    python -m tests.benchmarks.report [--traces 1000000] [--keep FOLDER]

The run is made as filtering.py makes one, filtered and selected, which takes many minutes; with --keep it is
made once and stays. The bars are 60 seconds, 1 GB and 5 MB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.inspect.run import open_run
from tests.benchmarks.filtering import build


def made(folder: Path, traces: int) -> Path:
    """The run's folder, made if it is missing."""
    run = folder / "bench"
    if not (run / "select" / "manifest.json").exists() or not open_run(run).output("select").complete:
        recipe = build(folder, traces)
        for stage in ("filter", "select"):
            subprocess.run(
                [sys.executable, "-m", "pipeline", "--runs", str(folder), stage, str(recipe)], check=True
            )
    return run


def measure(run: Path) -> None:
    out = run / "report.html"
    traces = len(open_run(run).rows("filter"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", "report", str(run), "--out", str(out)], check=True)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{traces:,} traces: {seconds:.1f} s ({cpu:.1f} s of CPU; bar 60 s), at most "
        f"{used.ru_maxrss / 1024:.0f} MiB (bar 1,000 MB), {out.stat().st_size / 1e6:.2f} MB (bar 5 MB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="where the run is made, or already is")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        measure(made(options.keep, options.traces))
        return
    with tempfile.TemporaryDirectory() as temporary:
        made(Path(temporary), options.traces)  # and measured in a process without those children
        command = [sys.executable, "-m", "tests.benchmarks.report", "--keep", temporary]
        subprocess.run([*command, "--traces", str(options.traces)], check=True)


if __name__ == "__main__":
    main()
