"""Training speed: `retort train`, unpacked and packed, beside a plain TRL script on the same examples.

    python -m tests.benchmarks.training [--examples 160] [--batch 8] [--model NAME] [--folder FOLDER]

All three train the demo's student, or --model, from the same weights: one epoch, cosine, this machine's
precision, the same batches where nothing is packed, nothing cut. They run one after the other, each in a
process of its own.
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

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.config.load import load_recipe
from pipeline.config.training import Train
from pipeline.inference import model_files
from pipeline.rows import Example, Message, Step, arrow_schema
from pipeline.train.job import TrainJob, read_steps
from pipeline.train.launcher import command, environment

DEMO = Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "demo.toml"
WARM = 2  # steps that do not count
LAST = 5  # steps whose mean loss is the final one


@dataclass(frozen=True)
class Result:
    rate: float  # tokens a second, padding not counted
    loss: float


def example(number: int, rng: random.Random, length: int | None = None) -> Example:
    """A sum of so many terms, each a line of the thought; None: of 2 to 13, which is 60 to 500 tokens."""
    terms = [rng.randint(1, 99) for _ in range(length or rng.randint(2, 13))]
    total, lines = terms[0], []
    for term in terms[1:]:
        lines.append(f"Now I add {term} to {total}, which makes {total} + {term} = {total + term}.")
        total += term
    thought = "\n".join(lines)
    asked = f"What is {' + '.join(map(str, terms))}?"
    answer = f"<think>\n{thought}\n</think>\n\nThe answer is \\boxed{{{total}}}."
    return Example(
        id=f"p{number}-0",
        problem_id=f"p{number}",
        source="sums",
        teacher="script",
        split="train",
        pass_rate=None,
        confidence=None,
        tokens=None,
        messages=(Message(role="user", content=asked), Message(role="assistant", content=answer)),
    )


def write_examples(path: Path, count: int) -> Path:
    rng = random.Random(0)
    rows = [example(number, rng).model_dump() for number in range(count)]
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(Example)), path)
    return path


def plain(job: TrainJob) -> None:
    """A script as TRL's documentation has it, with the settings of the job; a JSON line a step."""
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
    tokenizer.pad_token = "<|endoftext|>"  # it has the end of a turn for one, which would never be learned
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
    train = Train(
        epochs=1,
        learning_rate=5e-5,
        batch_size=batch,
        micro_batch_size=batch,
        packing=packing,
        save_steps=10**6,
        max_length=2048,
    )
    folder.mkdir()
    return TrainJob(
        model=model,
        examples=(shard,),
        output=folder / "model",
        checkpoints=folder / "checkpoints",
        train=train,
        seed=1,
    )


def measure(name: str, job: TrainJob) -> Result:
    """Train in a process of its own; ends the benchmark when that fails."""
    file = job.output.parent / "job.json"
    file.write_text(job.model_dump_json())
    ours = command(job.train.accelerate, file)
    line = [sys.executable, "-m", "tests.benchmarks.training", "--plain", str(file)]
    said = job.output.parent / "said.txt"
    print(f"{name}: training (log: {said})", flush=True)
    with said.open("w") as out:
        chosen = line if name == "plain TRL" else ours
        code = subprocess.run(chosen, env=environment(job), stdout=out, stderr=out).returncode
    if code:
        sys.exit(f"{name} ended with {code}:\n{said.read_text()[-2000:]}")
    if name == "plain TRL":
        return result([json.loads(text) for text in job.log.read_text().splitlines()])
    return result([step.model_dump(include=set(Step.model_fields)) for step in read_steps(job.log)])


def result(steps: list[dict[str, Any]]) -> Result:
    """From the log's lines: tokens and seconds since some moment, loss of each step."""
    if len(steps) <= WARM:
        sys.exit(f"{len(steps)} steps are too few: more --examples")
    first, last = steps[WARM - 1], steps[-1]
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
    parser.add_argument("--folder", type=Path, help="of the logs; default: a temporary one")
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
