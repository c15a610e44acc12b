"""Accuracy and cost of our grader and of math-verify on labelled answers.

    python -m tests.benchmarks.verification [--data FOLDER]

Each file of FOLDER that is there is measured: adversarial.jsonl.gz (rows with gold and pred, "@MARK@" for a
path that must never come to exist), equivalence.jsonl and equivalence-variants.jsonl (rows with gold, pred,
expected), gsm8k-labelled-solutions.jsonl.gz (problems with model solutions, each labelled). math-verify is
called as its README says: verify(parse(gold), parse(pred)).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filters.rules.correct import grade_response

Row = dict[str, Any]
Grader = Callable[[str, str], str]
AT_ONCE = 8
MARK = "@MARK@"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    data = parser.parse_args().data
    measures = {
        "adversarial.jsonl.gz": adversarial,  # first: math-verify, loaded later, would count as our memory
        "equivalence.jsonl": equivalence,
        "equivalence-variants.jsonl": equivalence,
        "gsm8k-labelled-solutions.jsonl.gz": solutions,
    }
    for name, measure in measures.items():
        if (data / name).exists():
            print(f"\n{name}")
            measure(data / name)
        else:
            print(f"\n{name}: not in {data}, skipped")


def equivalence(path: Path) -> None:
    """Accuracy, errors of both kinds, and pairs a second; ours also as a command, start-up counted."""
    rows = read(path)
    for name, grade in (("retort", ours), ("math-verify", theirs)):
        start = time.perf_counter()
        verdicts = [grade(row["gold"], row["pred"]) for row in rows]
        seconds = time.perf_counter() - start
        errors = Counter(
            (verdict == "passed", row["expected"])
            for row, verdict in zip(rows, verdicts, strict=True)
            if (verdict == "passed") != row["expected"]
        )
        print(
            f"  {name:12} {1 - errors.total() / len(rows):7.2%} correct, {errors[True, False]} false yes, "
            f"{errors[False, True]} missed, {verdicts.count('undecided')} undecided, "
            f"{len(rows) / seconds:,.0f} pairs/s"
        )
    start = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "verify", "--pairs", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(
        f"  retort verify --pairs: {len(rows) / (time.perf_counter() - start):,.0f} pairs/s, start-up counted"
    )


def solutions(path: Path) -> None:
    """Agreement with the labels, and traces a second on one core."""
    samples = [
        (row["ground_truth"], sample["solution"], sample["is_correct"])
        for row in read(path)
        for sample in row.values()
        if isinstance(sample, dict)
    ]
    for name, grade, part in (("retort", ours, samples), ("math-verify", theirs, samples[::10])):
        start = time.perf_counter()
        disagree = sum((grade(gold, pred) == "passed") != label for gold, pred, label in part)
        seconds = time.perf_counter() - start
        print(
            f"  {name:12} {len(part)} solutions, {1 - disagree / len(part):.2%} agree, "
            f"{len(part) / seconds:,.0f} traces/s"
        )


def adversarial(path: Path) -> None:
    """The longest verdict, alone and with others at once, the caller's memory, and whether code ran."""
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        text = json.dumps(read(path)).replace(MARK, str(mark))
        pairs = [(text_of(row["gold"]), text_of(row["pred"])) for row in json.loads(text)]
        alone = [timed(pair) for pair in pairs]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            in_threads = list(threads.map(timed, pairs))
        in_coroutines = asyncio.run(gathered(pairs))
        ran = mark.exists()
    for name, times in (("alone", alone), ("threads", in_threads), ("asyncio", in_coroutines)):
        print(f"  {name:12} longest verdict {max(times):.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  caller's peak {peak} MB, code ran: {ran}")


async def gathered(pairs: list[tuple[str, str]]) -> list[float]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(pair: tuple[str, str]) -> float:
        async with slots:
            return await asyncio.to_thread(timed, pair)

    return await asyncio.gather(*map(one, pairs))


def timed(pair: tuple[str, str]) -> float:
    start = time.perf_counter()
    ours(*pair)
    return time.perf_counter() - start


def ours(gold: str, pred: str) -> str:
    return grade_response(gold, pred, "math").outcome


def theirs(gold: str, pred: str) -> str:
    from math_verify import parse, verify

    return "passed" if verify(parse(gold), parse(pred)) else "failed"


def text_of(value: Any) -> str:
    return "" if value is None else str(value)


def read(path: Path) -> list[Row]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


if __name__ == "__main__":
    main()
