"""Training speed of `retort train`, unpacked and packed, against a plain TRL script on the same examples.

    python -m tests.benchmarks.training [--examples 160] [--batch 8] [--model NAME] [--folder FOLDER]

All three train the demo's student, or --model, from the same weights: one epoch, cosine schedule, this
machine's precision, the same batches (but for packing), nothing truncated. Each runs in its own process, one
after the other.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.config.load import load_recipe
from pipeline.inference import model_files
from pipeline.model_rows import Step
from pipeline.rows import Example, Message
from pipeline.train.job import TrainJob, read_steps
from pipeline.train.launcher import command, environment
from tests import tiny_student

DEMO = Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "demo.toml"
WARMUP = 2  # steps that are not measured
LAST = 5  # steps whose mean is the final loss


@dataclass(frozen=True)
class Result:
    rate: float  # tokens per second, without padding
    loss: float


def example(number: int, rng: random.Random, length: int | None = None) -> Example:
    """A sum of `length` terms, one per line of reasoning; None: 2 to 13 terms, 60 to 500 tokens."""
    terms = [rng.randint(1, 99) for _ in range(length or rng.randint(2, 13))]
    total, lines = terms[0], []
    for term in terms[1:]:
        lines.append(f"Now I add {term} to {total}, which makes {total} + {term} = {total + term}.")
        total += term
    reasoning = "\n".join(lines)
    question = f"What is {' + '.join(map(str, terms))}?"
    answer = f"<think>\n{reasoning}\n</think>\n\nThe answer is \\boxed{{{total}}}."
    return Example(
        id=f"p{number}-0",
        problem_id=f"p{number}",
        source="sums",
        teacher="script",
        split="train",
        pass_rate=None,
        confidence=None,
        tokens=None,
        messages=(Message(role="user", content=question), Message(role="assistant", content=answer)),
    )


def write_examples(path: Path, count: int) -> Path:
    rng = random.Random(0)
    return tiny_student.write_examples(path, [example(number, rng) for number in range(count)])


def plain(job: TrainJob) -> None:
    """A script as in TRL's documentation, with the job's settings; logs a JSON line per step."""
    import datasets
    import torch
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from pipeline.hardware import computes_bf16

    class Log(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                line = {"tokens": int(state.num_input_tokens_seen), "loss": logs["loss"]}
                with job.log.open("a") as file:
                    file.write(json.dumps(line | {"seconds": time.monotonic()}) + "\n")

    rows = [row for path in job.examples for row in pq.read_table(path, columns=["messages"]).to_pylist()]
    pairs = [{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in rows]
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.pad_token = "<|endoftext|>"  # its own is the end of turn, which would then have no loss
    cpu = not torch.accelerator.is_available()
    settings = SFTConfig(
        output_dir=str(job.checkpoints),
        num_train_epochs=job.train.epochs,
        learning_rate=job.train.learning_rate,
        lr_scheduler_type=job.train.schedule,
        warmup_steps=job.train.warmup,
        per_device_train_batch_size=job.train.micro_batch_size,
        gradient_accumulation_steps=job.train.batch_size // job.train.micro_batch_size,
        gradient_checkpointing=False,
        bf16=computes_bf16(),
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        model_init_kwargs={"dtype": "float32"},
        max_length=None,
        completion_only_loss=True,
        save_strategy="no",
        logging_steps=1,
        include_num_input_tokens_seen="non_padding",
        seed=job.seed,
        data_seed=job.seed,
        report_to="none",
        disable_tqdm=True,
    )
    SFTTrainer(
        job.model,
        settings,
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[Log()],
    ).train()


def job_of(folder: Path, model: str, shard: Path, batch: int, packing: bool) -> TrainJob:
    settings: dict[str, Any] = {"epochs": 1, "learning_rate": 5e-5, "save_steps": 10**6, "max_length": 2048}
    settings |= {"batch_size": batch, "micro_batch_size": batch, "packing": packing}
    folder.mkdir()
    return tiny_student.job(folder, model, (shard,), **settings).model_copy(update={"seed": 1})


def measure(name: str, job: TrainJob) -> Result:
    """Trains in a subprocess; ends the benchmark when it fails."""
    file = job.output.parent / "job.json"
    file.write_text(job.model_dump_json())
    line = command(job.train.accelerate, file)
    if name == "plain TRL":
        line = [sys.executable, "-m", "tests.benchmarks.training", "--plain", str(file)]
    log = job.output.parent / "output.txt"
    print(f"{name}: training (log: {log})", flush=True)
    with log.open("w") as out:
        code = subprocess.run(line, env=environment(job), stdout=out, stderr=out).returncode
    if code:
        sys.exit(f"{name} ended with {code}:\n{log.read_text()[-2000:]}")
    if name == "plain TRL":
        return result([json.loads(text) for text in job.log.read_text().splitlines()])
    return result([step.model_dump(include=set(Step.model_fields)) for step in read_steps(job.log)])


def result(steps: list[dict[str, Any]]) -> Result:
    """From the log: cumulative tokens, seconds and loss of each step."""
    if len(steps) <= WARMUP:
        sys.exit(f"{len(steps)} steps are too few: more --examples")
    first, last = steps[WARMUP - 1], steps[-1]
    rate = (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])
    losses = [step["loss"] for step in steps[-LAST:]]
    return Result(rate, sum(losses) / len(losses))


def show(results: dict[str, Result]) -> None:
    table = Table("", "tokens/s", "final loss", "difference", "ratio", box=None)
    baseline = results["plain TRL"]
    for name, each in results.items():
        difference = f"{each.loss - baseline.loss:+.4f}"
        ratio = f"{each.rate / baseline.rate:.2f}"
        table.add_row(name, f"{each.rate:.0f}", f"{each.loss:.4f}", difference, ratio)
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--model", default=load_recipe(DEMO).student.model)
    parser.add_argument("--folder", type=Path, help="for the logs; default: a temporary one")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(TrainJob.model_validate_json(options.plain.read_bytes()))
        return
    model = model_files.resolve(options.model, print)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        shard = write_examples(folder / "examples.parquet", options.examples)
        results = {}
        for name in ("plain TRL", "retort", "retort, packed"):
            packed = name.endswith("packed")
            job = job_of(folder / name.replace(", ", "-"), model, shard, options.batch, packed)
            results[name] = measure(name, job)
        show(results)


if __name__ == "__main__":
    main()
