"""Tokens per second of a real teacher through `retort generate`, compared with a bare loop.

    python -m tests.benchmarks.serving [--problems 60] [--rounds 3]

One vLLM serves the demo's teacher; both send it the same requests (messages, seeds, sampling), in turn. The
loop does not stream and writes nothing; ours streams, and journals every trace.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

import prompts
from pipeline.config import Recipe
from pipeline.config.load import load_recipe
from pipeline.engine.execute import execute
from pipeline.engine.store import Output
from pipeline.generate import stage as generate
from pipeline.generate.sample_plan import sampling_seed
from pipeline.inference import model_files, vllm_server
from pipeline.rows import Problem, Trace
from pipeline.stages import STAGES

DEMO = Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "demo.toml"


async def bare_loop(url: str, model: str, recipe: Recipe, problems: Sequence[Problem]) -> int:
    """Requests each sample with the openai package, so many at once. Returns the completion tokens."""
    import openai

    table, prompt = recipe.generate, prompts.load(recipe.generate.prompt)
    room = asyncio.Semaphore(table.concurrency)

    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=3600) as api:

        async def one(problem: Problem, sample: int) -> int:
            async with room:
                answer = await api.chat.completions.create(
                    model=model,
                    messages=[m.model_dump() for m in prompt.render(problem)],  # type: ignore[misc]
                    temperature=table.temperature,
                    top_p=table.top_p,
                    max_tokens=table.max_tokens,
                    seed=sampling_seed(problem.id, sample, recipe.seed),
                )
            assert answer.usage
            return answer.usage.completion_tokens

        return sum(await asyncio.gather(*(one(p, s) for p in problems for s in range(table.most_samples))))


def ours(recipe: Recipe, serving: vllm_server.Server, run: Path) -> int:
    """Runs the generate stage without starting vLLM. Returns the completion tokens."""
    sampling = generate.training_job(recipe)
    model = replace(sampling.models[0], reach=lambda _job: nullcontext(serving))
    work = partial(generate.sample, replace(sampling, models=(model,)))
    execute(replace(STAGES["generate"], work=work), recipe, run)
    return sum(trace.completion_tokens for trace in Output(run / "generate", Trace).rows())


@contextmanager
def demo(problems: int) -> Iterator[tuple[Recipe, vllm_server.Server, Path]]:
    """The demo's recipe for so many problems with a running teacher, and a temporary folder."""
    limits = (f"ingest.sources.0.limit={problems}", "ingest.sources.1.size=1", "ingest.held_out=0")
    recipe = load_recipe(DEMO, limits)
    teacher = recipe.teacher[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = model_files.resolve(teacher.model, print)
        with vllm_server.serving(teacher, path, "teacher", folder / "vllm.log", print) as serving:
            yield recipe, serving, folder


def ingested(recipe: Recipe, folder: Path, name: str) -> Path:
    run = folder / name
    execute(STAGES["ingest"], recipe, run)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"bare loop": [], "retort": []}
    with demo(options.problems) as (recipe, serving, folder):
        (url,) = serving.base_urls
        problems = list(Output(ingested(recipe, folder, "bare") / "ingest", Problem).rows())
        asyncio.run(bare_loop(url, "teacher", recipe, problems[:8]))  # warm
        for turn in range(options.rounds):
            run = ingested(recipe, folder, f"ours-{turn}")
            began = time.perf_counter()
            tokens = asyncio.run(bare_loop(url, "teacher", recipe, problems))
            rates["bare loop"].append(tokens / (time.perf_counter() - began))
            began = time.perf_counter()
            tokens = ours(recipe, serving, run)
            rates["retort"].append(tokens / (time.perf_counter() - began))
    show(rates)


def show(rates: dict[str, list[float]]) -> None:
    table = Table("", "tokens/s, median", "each round", box=None)
    for name, each in rates.items():
        table.add_row(name, f"{statistics.median(each):.0f}", ", ".join(f"{rate:.0f}" for rate in each))
    Console(width=100).print(table)
    ratios = [a / b for a, b in zip(rates["retort"], rates["bare loop"], strict=True)]
    print(f"retort / bare loop: {statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
