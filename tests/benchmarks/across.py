"""The filters across traces on synthetic grade-school traces: CPU time, memory, temporary files.

    python -m tests.benchmarks.across [contamination duplicates search majority difficulty] [--traces 20000]

Each part runs in its own process, so that each peak is its own. Of the traces, of about 2 kB each,
every tenth is the one before it with a word in fifty changed; every hundredth quotes an evaluation problem.
`search` is the part of `duplicates` that does not run shard by shard, for many millions of texts: their keys
and shingles are made up, and every tenth text resembles any earlier one.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from filters.dataset.contamination import ContaminationIndex
from filters.dataset.difficulty import difficulty
from filters.dataset.duplicates import DuplicateIndex
from filters.dataset.majority import majority
from filters.dataset.minhash import KEYS, Hashes32, text_keys, text_shingles
from filters.dataset.ngrams import Hashes
from pipeline.rows import Sampling, Trace, Verdict

T = TypeVar("T")
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
    """CPU time of the measured part only, without the generation of the texts."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        began = time.process_time()
        result = function(*arguments)
        self.seconds += time.process_time() - began
        return result


class Peaks(threading.Thread):
    """The most memory of the process, without pages of files, and the most disk of its unnamed files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.memory = self.disk = 0.0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text().partition("RssAnon:")[2]
            self.memory = max(self.memory, int(status.split()[0]) / 1024)
            self.disk = max(self.disk, _disk() / 2**20)
            time.sleep(0.2)


def _disk() -> int:
    size = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(descriptor).endswith("(deleted)"):
                size += os.stat(descriptor).st_blocks * 512
        except OSError:  # closed meanwhile
            pass
    return size


def run_contamination(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    index = ContaminationIndex({"exam": [(str(i), exam(i)) for i in range(PROBLEMS)]})
    reasons: Counter[str] = Counter()
    size = 0
    for some in shards(traces):
        rows = [a_trace(i, reasoning=one) for i, one in enumerate(some)]
        reasons.update(result.reason for result in clock(index.results, rows))
        size += sum(map(len, some)) + len(rows) * (len(rows[0].question) + len(rows[0].response))
    return reasons, size


def run_duplicates(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    size = 0

    def keys(numbers: range) -> Hashes:
        nonlocal size
        some = [text(i) for i in numbers]
        size += sum(map(len, some))
        return clock(text_keys, some)

    return search(traces, clock, keys, lambda some: clock(text_shingles, [text(i) for i in some])), size


def run_search(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    return search(traces, clock, made_up_keys, lambda some: [made_up_shingles(i) for i in some]), 0


def search(
    traces: int,
    clock: Clock,
    keys: Callable[[range], Hashes],
    shingles: Callable[[list[int]], list[Hashes32]],
) -> Counter[str]:
    """Finds the duplicates among texts that are known by their numbers."""
    reasons: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, DuplicateIndex(folder=Path(folder)) as index:
        for start in range(0, traces, SHARD):
            some = keys(range(start, min(traces, start + SHARD)))
            clock(index.add, some)
        clock(index.group)
        print(f"keys added and grouped after {clock.seconds:.1f} s CPU", flush=True)
        for batch in range((traces + SHARD - 1) // SHARD):
            chosen = (batch * SHARD + clock(index.shared, batch)).tolist()
            ids = [f"{i:016x}-0-0" for i in chosen]
            failed = clock(index.compare, batch, ids, shingles(chosen))
            reasons.update(result.reason for result in failed.values())
            reasons["compared"] += len(chosen)
    return reasons


def made_up_keys(numbers: range) -> Hashes:
    """Of every tenth text, the digest differs from an earlier text's, and so do up to half of the bands."""
    own = np.arange(numbers.start, numbers.stop, dtype=np.uint64)
    like = np.array([model(i) for i in numbers], np.uint64)
    columns = np.arange(KEYS, dtype=np.uint64)
    changed = _mixed(own * 3)[:, None] % 10 > _mixed(own[:, None] * KEYS + columns) % 20
    changed |= columns == 0
    return _mixed(np.where(changed, own[:, None], like[:, None]) * KEYS + columns)


def made_up_shingles(i: int) -> Hashes32:
    """100 shingles; of every tenth text, all but up to 20 are those of an earlier one."""
    numbers = np.full(100, model(i), np.uint64)
    numbers[: int(_mixed(np.array([i + 7], np.uint64))[0] % 20)] = i
    return np.unique((_mixed(numbers * 128 + np.arange(100, dtype=np.uint64)) >> 32).astype(np.uint32))


def model(i: int) -> int:
    """The number of the text that text i resembles, which may be its own."""
    return random.Random(i).randrange(i) if i % 10 == 9 else i


def _mixed(values: Hashes) -> Hashes:
    """Hashes numbers (splitmix64)."""
    values = (values + 0x9E3779B97F4A7C15) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> 27)) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> 31)


def run_majority(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    reasons: Counter[str] = Counter()
    for i in range(0, traces, SAMPLES):
        answers = ["1/2", "0.5", "\\frac{1}{2}", "0.5", "0.5", "7", "0.50", "8"]
        rows = [a_trace(i + k, f"The answer is \\boxed{{{answer}}}.") for k, answer in enumerate(answers)]
        reasons.update(result.reason for result in clock(majority, rows))
    return reasons, 0


def run_difficulty(traces: int, clock: Clock) -> tuple[Counter[str], int]:
    reasons: Counter[str] = Counter()
    for i in range(0, traces, SAMPLES):
        rows = [a_trace(i + k) for k in range(SAMPLES)]
        reasons.update(result.reason for result in clock(difficulty, rows))
    return reasons, 0


PARTS = {
    "contamination": run_contamination,
    "duplicates": run_duplicates,
    "search": run_search,
    "majority": run_majority,
    "difficulty": run_difficulty,
}


def measure(name: str, traces: int) -> str:
    clock, peaks = Clock(), Peaks()
    peaks.start()
    reasons, size = PARTS[name](traces, clock)
    counts = ", ".join(f"{reason or 'fit'} {number:,}" for reason, number in reasons.most_common())
    speed = f"{clock.seconds:.1f} s CPU, {traces / clock.seconds:,.0f} traces/s"
    speed += f", {size / clock.seconds / 1e6:.1f} MB/s" if size else ""
    held = f"memory {peaks.memory:.0f} MiB, temporary files {peaks.disk:.0f} MiB"
    return f"{name}: {traces:,} traces, {speed}, {held}; {counts}"


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
