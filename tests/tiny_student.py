"""A student small enough to train in seconds: random weights, a byte-level tokenizer, a ChatML template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.arrow_schema import arrow_schema
from pipeline.config import Recipe
from pipeline.config.train import Train
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.rows import Example, ExampleKind, Message
from pipeline.train.job import TrainJob
from pipeline.train.stage import TRAIN

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes an empty block where thinking is off, in the prompt and in the answer, as Qwen3's template does.
SWITCHED = (
    "{% set off = enable_thinking is defined and not enable_thinking %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if off and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if off %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def tokenizer(template: str | None = CHATML, **special: str) -> Any:
    """A byte-level tokenizer; padding is the end of turn, as with SmolLM2, unless `special` overrides it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bare = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens(names[:3])
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"} | special
    loaded = PreTrainedTokenizerFast(tokenizer_object=bare, **tokens)
    loaded.chat_template = template
    return loaded


def model(seed: int = 0, layers: int = 2, hidden: int = 64) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=259, eos_token_id=2, pad_token_id=2, **sizes))


def save(folder: Path, layers: int = 2, hidden: int = 64, template: str = CHATML) -> Path:
    """An ordinary model folder."""
    model(layers=layers, hidden=hidden).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def example(
    number: int, split: str = "train", kind: ExampleKind = "reasoning", paired: bool = False
) -> Example:
    """A sum: with its reasoning unless it is plain or chat; `paired`: next to an answer that is incorrect."""
    a, b = number % 9 + 1, number // 9 + 1
    question = Message(role="user", content=f"{a} + {b}?")
    reasoning = f"<think>\nCount {b} up from {a}.\n</think>\n\n"
    answer = (reasoning if kind == "reasoning" else "") + f"\\boxed{{{a + b}}}"
    return Example(
        id=f"p{number}-0",
        problem_id=f"p{number}",
        source="sums",
        teacher="counting",
        split=split,  # type: ignore[arg-type]
        pass_rate=None,
        confidence=None,
        tokens=None,
        messages=(question, Message(role="assistant", content=answer)),
        kind=kind,
        rejected=reasoning + f"\\boxed{{{a + b + 1}}}" if paired else None,
    )


def write_examples(path: Path, examples: list[Example]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [example.model_dump() for example in examples]
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(Example)), path)
    return path


def recipe(student: str = "org/name", **train: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run": "test",
            "ingest": {"sources": [{"kind": "file", "path": "problems.jsonl"}]},
            "teacher": {"model": "teacher", "base_url": "http://127.0.0.1:1/v1"},
            "generate": {"prompt": "arithmetic"},
            "student": {"model": student},
            "train": train,
        }
    )


def job(folder: Path, model: Path | str = "", examples: tuple[Path, ...] = (), **train: Any) -> TrainJob:
    """A training job with its output in the folder."""
    return TrainJob(
        model=str(model),
        examples=examples,
        output=folder / "model",
        checkpoints=folder / "checkpoints",
        train=Train.model_validate(train),
    )


def train_job(recipe: Recipe, run_dir: Path, examples: list[Example]) -> Job:
    """The job of the train stage after select has written these examples."""
    for stage in TRAIN.reads:
        given = Job(stage, recipe, run_dir)
        given.output.save(manifest_of(given).model_copy(update={"shards": None}))
        if stage.name == "select":
            given.output.write("shard-00000", examples)
        given.output.finish()  # generate has no shards: the objective reads no traces
    return Job(TRAIN, recipe, run_dir)
