"""The cost of a request: `retort generate` with its journal, an AsyncOpenAI loop and an aiohttp loop.

    python -m tests.benchmarks.client [--requests 4000] [--in-flight 256]

The stub (stub.py) answers after 50 ms with 3 kB. Client on one core, stub on another. `while running` is from
the first request to the last row on disk; `CPU` is the CPU time of the process in that period.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import stub

CONTENDERS = ("retort", "AsyncOpenAI", "aiohttp")
BODY = {"model": "stub", "temperature": 0.6, "top_p": 0.95, "max_tokens": 4096}
RECIPE = """
run = "bench"
[ingest]
held_out = 0.0
[[ingest.sources]]
kind = "file"
path = "{problems}"
[teacher]
model = "stub"
base_url = "{url}"
[generate]
prompt = "plain"
samples = 1
concurrency = {in_flight}
[student]
model = "none"
"""


def question(i: int) -> str:
    return f"What is {i} + {i}? Think about it first, then say the answer."


def retort(url: str, requests: int, in_flight: int, folder: Path) -> int:
    """Runs the generate stage as the command does, on problems that are already ingested."""
    import jinja2.sandbox  # noqa: F401  what is imported when first needed, before the clock starts
    import openai  # noqa: F401

    from pipeline.config.load import load_recipe
    from pipeline.engine.execute import execute
    from pipeline.engine.store import Output
    from pipeline.rows import Trace
    from pipeline.stages import STAGES

    problems = folder / "problems.jsonl"
    problems.write_text(
        "".join(json.dumps({"question": question(i), "answer": str(2 * i)}) + "\n" for i in range(requests))
    )
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(problems=problems, url=url, in_flight=in_flight))
    recipe = load_recipe(path)
    execute(STAGES["ingest"], recipe, folder / "run")
    start_clock()
    execute(STAGES["generate"], recipe, folder / "run")
    return Output(folder / "run" / "generate", Trace).counts().rows


def loop(ask: Callable[[int], Awaitable[str]], requests: int, in_flight: int, folder: Path) -> Awaitable[int]:
    """A plain loop: a semaphore, and a line of JSONL for each answer, flushed and not synced."""

    async def run() -> int:
        room = asyncio.Semaphore(in_flight)
        rows = 0
        with (folder / "out.jsonl").open("w") as out:

            async def one(i: int) -> None:
                nonlocal rows
                async with room:
                    text = await ask(i)
                out.write(json.dumps({"id": i, "question": question(i), "answer": text}) + "\n")
                out.flush()
                rows += 1

            await asyncio.gather(*(one(i) for i in range(requests)))
        return rows

    return run()


async def async_openai(url: str, requests: int, in_flight: int, folder: Path) -> int:
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="none") as api:

        async def ask(i: int) -> str:
            messages = [{"role": "user", "content": question(i)}]
            answer = await api.chat.completions.create(messages=messages, **BODY)  # type: ignore[call-overload]
            return str(answer.choices[0].message.content)

        return await loop(ask, requests, in_flight, folder)


async def plain_aiohttp(url: str, requests: int, in_flight: int, folder: Path) -> int:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(i: int) -> str:
            body = BODY | {"messages": [{"role": "user", "content": question(i)}]}
            async with session.post(f"{url}/chat/completions", json=body) as answer:
                return str((await answer.json())["choices"][0]["message"]["content"])

        return await loop(ask, requests, in_flight, folder)


clock: dict[str, float] = {}


def start_clock() -> None:
    clock.update(wall=time.perf_counter(), cpu=time.process_time())


def contend(name: str, url: str, requests: int, in_flight: int) -> None:
    """Runs one contender in this process and prints a line of JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if name == "retort":
            rows = retort(url, requests, in_flight, folder)
        else:
            import aiohttp  # noqa: F401  imported before the clock starts, like ours
            import openai  # noqa: F401

            start_clock()
            run = async_openai if name == "AsyncOpenAI" else plain_aiohttp
            rows = asyncio.run(run(url, requests, in_flight, folder))
    seconds, cpu = time.perf_counter() - clock["wall"], time.process_time() - clock["cpu"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu": cpu, "memory": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return contend(*options.one, options.requests, options.in_flight)
    table = Table("", "requests/s while running", "CPU ms each", "peak MB", "rows", box=None)
    for name in CONTENDERS:
        with stub.running() as (url, pid):
            os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))})
            command = [sys.executable, "-m", "tests.benchmarks.client", "--one", name, url]
            command += ["--requests", str(options.requests), "--in-flight", str(options.in_flight)]
            said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        got = json.loads(said.splitlines()[-1])
        table.add_row(
            name,
            f"{got['rows'] / got['seconds']:,.0f}",
            f"{1000 * got['cpu'] / got['rows']:.2f}",
            f"{got['memory']:.0f}",
            f"{got['rows']:,}",
        )
    Console(width=110).print(table)
    return None


if __name__ == "__main__":
    main()
