"""The filters across traces on synthetic grade-school traces: rows per second, and memory.

    python -m tests.benchmarks.across [contamination duplicates majority difficulty] [--traces 20000]

Each part runs in its own process, so that each peak is its own. Of the traces, of about 2 kB each,
every tenth is the one before it with a word in fifty changed; every hundredth quotes an evaluation problem.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from filters.dataset.contamination import ContaminationIndex
from filters.dataset.difficulty import difficulty
from filters.dataset.duplicates import DuplicateIndex
from filters.dataset.majority import majority
from filters.dataset.minhash import sketch
from filters.result import FilterResult
from pipeline.rows import Sampling, Trace, Verdict

SHARD = 1000
SAMPLES = 8
PROBLEMS = 5000  # of the evaluation set
NAMES, THINGS, VERBS, PLACES = map(
    str.split,
    (
        "Ada Ben Chloe Dev Ella Finn Gita Hugo Ines Jon Kira Liam Mona Nils Omar Pia Quinn Rosa Sami Tess",
        "apples books coins drums eggs flags games hats jars kites lamps maps nets pens ropes shells tents",
        "packs buys sells finds carries counts paints stacks trades wraps mends sorts",
        "market harbour school garden station bakery library workshop meadow tower",
    ),
)


def question(i: int) -> str:
    rng = random.Random(i)
    return " ".join(_sentence(rng) for _ in range(3)) + f" How many {rng.choice(THINGS)} are left in total?"


def exam(i: int) -> str:
    """An evaluation problem: words in an order that no trace has by chance."""
    return " ".join(reversed(question(-i - 1).split()))


def text(i: int) -> str:
    """Trace number i; about 2 kB."""
    if i % 10 == 9:
        rng = random.Random(i)
        words = (rng.choice(THINGS) if rng.random() < 0.02 else word for word in text(i - 1).split())
        return " ".join(words)
    rng = random.Random(i)
    steps = [_step(rng) for _ in range(22)]
    if i % 100 == 50:
        steps[10] = exam(i % PROBLEMS)
    return "\n".join(steps)


def _sentence(rng: random.Random) -> str:
    a, b = rng.randrange(2, 99), rng.randrange(2, 99)
    return (
        f"{rng.choice(NAMES)} {rng.choice(VERBS)} {a} {rng.choice(THINGS)} at the {rng.choice(PLACES)} and "
        f"{rng.choice(VERBS)} {b} {rng.choice(THINGS)} near the {rng.choice(PLACES)}."
    )


def _step(rng: random.Random) -> str:
    a, b = rng.randrange(2, 99), rng.randrange(2, 99)
    return f"{_sentence(rng)} So that is {a} + {b} = {a + b}."


def a_trace(i: int, response: str = "The answer is 4.", reasoning: str = "") -> Trace:
    correct = Verdict(filter="correct", version=1, outcome="passed" if i % 3 else "failed", reason="")
    return Trace(
        id=f"{i // SAMPLES:016x}-0-{i % SAMPLES}",
        problem_id=f"{i // SAMPLES:016x}",
        sample=i % SAMPLES,
        question=question(i // SAMPLES),
        reference=None,
        answer_type="math",
        source="bench",
        teacher="stub",
        prompt="plain",
        prompt_hash="0" * 16,
        sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=4096),
        seed=i,
        reasoning=reasoning,
        response=response,
        finish_reason="stop",
        prompt_tokens=30,
        completion_tokens=600,
        verdicts=(correct,),
    )


def shards(traces: int) -> Iterator[list[str]]:
    numbers = iter(range(traces))
    while some := list(islice(numbers, SHARD)):
        yield [text(i) for i in some]


class Clock:
    """Time of the measured part only, without the generation of the texts."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[[], list[FilterResult]]) -> list[FilterResult]:
        began = time.perf_counter()
        results = function()
        self.seconds += time.perf_counter() - began
        return results


def run_contamination(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    index = ContaminationIndex({"exam": [(str(i), exam(i)) for i in range(PROBLEMS)]})
    reasons: Counter[str] = Counter()
    size = 0
    for some in shards(traces):
        rows = [a_trace(i, reasoning=one) for i, one in enumerate(some)]
        reasons.update(result.reason for result in clock(partial(index.results, rows)))
        size += sum(map(len, some)) + len(rows) * (len(rows[0].question) + len(rows[0].response))
    return reasons, size


def run_duplicates(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    reasons: Counter[str] = Counter()
    size = 0
    with tempfile.TemporaryDirectory() as folder, DuplicateIndex(folder=Path(folder)) as duplicates:

        def add(at: int, some: list[str]) -> list[FilterResult]:
            duplicates.add([f"{i:016x}-0-0" for i in range(at, at + len(some))], sketch(some))
            return []

        for n, some in enumerate(shards(traces)):
            clock(partial(add, n * SHARD, some))
            size += sum(map(len, some))
        began = time.perf_counter()
        reasons.update(result.reason for result in duplicates.results())
        clock.seconds += time.perf_counter() - began
    return reasons, size


def run_majority(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    reasons: Counter[str] = Counter()
    for i in range(0, traces, SAMPLES):
        answers = ["1/2", "0.5", "\\frac{1}{2}", "0.5", "0.5", "7", "0.50", "8"]
        rows = [a_trace(i + k, f"The answer is \\boxed{{{answer}}}.") for k, answer in enumerate(answers)]
        reasons.update(result.reason for result in clock(partial(majority, rows)))
    return reasons, 0


def run_difficulty(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    reasons: Counter[str] = Counter()
    for i in range(0, traces, SAMPLES):
        rows = [a_trace(i + k) for k in range(SAMPLES)]
        reasons.update(result.reason for result in clock(partial(difficulty, rows)))
    return reasons, 0


PARTS = {
    "contamination": run_contamination,
    "duplicates": run_duplicates,
    "majority": run_majority,
    "difficulty": run_difficulty,
}


def measure(name: str, traces: int) -> str:
    clock = Clock()
    before = memory()
    reasons, size = PARTS[name](traces, clock)
    counts = ", ".join(f"{reason or 'fit'} {number:,}" for reason, number in reasons.most_common())
    speed = f"{traces / clock.seconds:,.0f} traces/s"
    speed += f", {size / clock.seconds / 1e6:.1f} MB/s" if size else ""
    held = f"{memory():.0f} MiB at most, {before:.0f} at the start"
    return f"{name}: {traces:,} traces, {speed}, {held}; {counts}"


def memory() -> float:
    """The peak memory of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them when none is named")
    parser.add_argument("--traces", type=int, default=20_000)
    options = parser.parse_args()
    for name in options.parts or PARTS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            print(pool.submit(measure, name, options.traces).result(), flush=True)


if __name__ == "__main__":
    main()
