"""The preflight on examples that TRL tokenized: each planted fault is caught by its check."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.errors import UserError
from pipeline.train.job import Preflight, PreflightCheck, TrainJob, read_preflight
from tests import tiny_student
from tests.tiny_student import CHATML

pytest.importorskip("trl")

# Drops the reasoning of past answers, as the templates of many reasoning models do.
STRIPS = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
UPPER = CHATML.replace("message['content']", "message['content'].replace('boxed', 'BOXED')")
OPENS = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
BARE = CHATML.replace("<|im_start|>assistant\n' }}{% endif", "<|im_start|>helper\n' }}{% endif")
END = 2


def write_job(
    folder: Path, served: str | None = None, reasoning: Literal["tags", "none"] = "tags", **train: Any
) -> TrainJob:
    job = tiny_student.job(folder, **({"precision": "fp32"} | train))
    return job.model_copy(update={"reasoning": reasoning, "served_template": served})


@pytest.fixture(scope="module", autouse=True)
def current_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty folder, in which nothing is left. transformers makes `trainer_output` there unasked."""
    with contextlib.chdir(tmp_path_factory.mktemp("current")):
        yield
        assert not os.listdir()


def prepared(
    template: str = CHATML, completion_only: bool = True, max_length: int | None = None, plain: bool = False
) -> tuple[Any, Any, Any]:
    """Rows tokenized by TRL, the model, its tokenizer."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from pipeline.train.trainer import special_tokens

    tokenizer, model = tiny_student.tokenizer(template), tiny_student.model()
    special_tokens.set_padding(tokenizer, END)
    examples = [tiny_student.example(n).model_dump() for n in range(6)]
    for message in (e["messages"][-1] for e in examples if plain):
        message["content"] = message["content"].replace("<think>\n", "").replace("</think>\n", "")
    config: dict[str, Any] = {"max_length": max_length, "completion_only_loss": completion_only}
    rows = [
        {"id": e["id"], "split": "train", "prompt": e["messages"][:-1], "completion": e["messages"][-1:]}
        for e in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = SFTTrainer(
            model=model,
            args=SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", **config),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    return trainer.train_dataset, model, tokenizer


@pytest.fixture(scope="module")
def sound() -> tuple[Any, Any, Any]:
    return prepared()


def run_preflight(job: TrainJob, examples: tuple[Any, Any, Any], *extra: PreflightCheck) -> None:
    from pipeline.train.trainer import example_checks, packing, preflight

    rows, model, tokenizer = examples
    served = example_checks.read_template(job.served_template)
    half = len(rows) // 2  # checked in two parts, as by two processes
    halves = [rows.select(range(half)), rows.select(range(half, len(rows)))]
    first, second = (preflight.inspect(part, tokenizer, END, served, job) for part in halves)
    report = preflight.report(first + second, tokenizer, END, job, extra)
    if job.train.packing:
        checks = (*report.checks, packing.check(rows, model, job))
        report = report.model_copy(update={"checks": checks})
    preflight.conclude(report, job)


def failure(job: TrainJob, examples: tuple[Any, Any, Any]) -> tuple[str, str]:
    """The name of the first failed check and the line that the user sees."""
    with pytest.raises(UserError) as raised:
        run_preflight(job, examples)
    first = report_of(job).failed[0]
    assert str(raised.value) == first.why
    assert "\n" not in first.why
    return first.name, first.why


def report_of(job: TrainJob) -> Preflight:
    written = read_preflight(job.preflight)
    assert written
    return written


def relabeled(
    examples: tuple[Any, Any, Any], change: Callable[[dict[str, Any]], list[int]]
) -> tuple[Any, Any, Any]:
    return (examples[0].map(lambda row: {"labels": change(row)}), *examples[1:])


def test_sound_examples_pass_every_check_and_none_is_left_out(sound: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path, packing=True)
    run_preflight(job, sound)
    seen = report_of(job)
    assert not seen.failed
    assert [check.name for check in seen.checks] == [
        "padding is not the end of turn",
        "some token has loss",
        "prompt has no loss",
        "end of turn has loss",
        "no special token before the end",
        "reasoning survives the template",
        "response is unchanged",
        "whole completion has loss",
        "server renders the same prompt",
        "tokens with loss",
        "longest example",
        "at most 4096 tokens",
        "packed examples are isolated",
    ]
    lengths = [len(ids) for ids in sound[0]["input_ids"]]
    supervised = sum(label != -100 for labels in sound[0]["labels"] for label in labels)
    assert (seen.examples, seen.left_out, seen.longest) == (6, (), max(lengths))
    assert seen.supervised == pytest.approx(supervised / sum(lengths))


def test_the_shown_example_marks_the_tokens_with_loss(sound: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    run_preflight(job, sound)
    question, answer = (message.content for message in tiny_student.example(0).messages)
    start = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert report_of(job).example == f"{start}>>>{answer}<|im_end|>\n<<<"


def test_examples_without_reasoning_pass_all_other_checks(tmp_path: Path) -> None:
    job, examples = write_job(tmp_path, reasoning="none"), prepared(plain=True)
    run_preflight(job, examples)
    names = [check.name for check in report_of(job).checks]
    assert "reasoning survives the template" not in names
    assert names.count("response is unchanged") == 1
    assert failure(write_job(tmp_path), examples)[0] == "reasoning survives the template"
    assert failure(job, prepared(OPENS, plain=True))[0] == "server renders the same prompt"


def test_a_template_that_drops_the_reasoning_is_caught(tmp_path: Path) -> None:
    name, why = failure(write_job(tmp_path), prepared(STRIPS))
    assert name == "reasoning survives the template"
    assert why.startswith("example p0-0: the student's chat template drops the reasoning")
    assert why.endswith("(6 of 6 examples)")


def test_an_end_of_turn_without_loss_is_caught(sound: Any, tmp_path: Path) -> None:
    masked = relabeled(sound, lambda row: [-100 if token == END else token for token in row["labels"]])
    assert failure(write_job(tmp_path), masked)[0] == "end of turn has loss"


def test_padding_that_is_the_end_of_turn_is_caught(sound: Any, tmp_path: Path) -> None:
    rows, model, _ = sound
    assert (
        failure(write_job(tmp_path), (rows, model, tiny_student.tokenizer()))[0]
        == "padding is not the end of turn"
    )


def test_rows_without_any_loss_are_caught(sound: Any, tmp_path: Path) -> None:
    masked = relabeled(sound, lambda row: [-100] * len(row["labels"]))
    name, why = failure(write_job(tmp_path), masked)
    assert name == "some token has loss"
    assert "no token has loss" in why


def test_examples_over_max_length_are_named_and_not_truncated(sound: Any, tmp_path: Path) -> None:
    name, why = failure(write_job(tmp_path, max_length=16), sound)
    longest = max(len(ids) for ids in sound[0]["input_ids"])
    assert name == "at most 16 tokens"
    assert why.startswith(
        f"6 of 6 examples are longer than train.max_length = 16 tokens, the longest {longest}"
    )
    assert report_of(write_job(tmp_path)).left_out == tuple(f"p{n}-0" for n in range(6))


def test_examples_that_trl_truncated_are_caught(tmp_path: Path) -> None:
    assert failure(write_job(tmp_path), prepared(max_length=70))[0] == "end of turn has loss"


def test_a_few_examples_over_max_length_are_left_out_and_named(sound: Any, tmp_path: Path) -> None:
    rows, model, tokenizer = sound
    long = rows.select([3]).map(lambda row: {name: row[name] * 9 for name in ("input_ids", "labels")})
    from datasets import concatenate_datasets

    mixed = concatenate_datasets([rows.select([0, 1]), long, rows.select([4])]), model, tokenizer
    assert (
        failure(write_job(tmp_path, max_length=200, max_overlong_fraction=0.2), mixed)[0]
        == "at most 200 tokens"
    )
    job = write_job(tmp_path, max_length=200, max_overlong_fraction=0.25)
    run_preflight(job, mixed)
    assert report_of(job).examples == 3
    assert report_of(job).left_out == ("p3-0",)
    assert "1 of 4 left out: p3-0" in [check.value for check in report_of(job).checks]


def test_leaving_out_every_example_is_an_error(sound: Any, tmp_path: Path) -> None:
    why = failure(write_job(tmp_path, max_length=16, max_overlong_fraction=1), sound)[1]
    assert why.endswith("without them no example is left to train on")


def test_an_attention_that_mixes_packed_examples_is_caught(sound: Any, tmp_path: Path) -> None:
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface

    def leaky(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[Any, None]:
        return scaled_dot_product_attention(query, key, value, is_causal=True).transpose(
            1, 2
        ).contiguous(), None

    AttentionInterface.register("leaky", leaky)
    rows, _, tokenizer = sound
    model = tiny_student.model()
    model.set_attn_implementation("leaky")
    run_preflight(write_job(tmp_path), (rows, model, tokenizer))  # unpacked it is correct
    name, why = failure(write_job(tmp_path, packing=True), (rows, model, tokenizer))
    assert name == "packed examples are isolated"
    assert why.startswith("packing: with attention 'leaky' packed examples attend to each other: loss")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_packing_has_no_side_effects(sound: Any, tmp_path: Path, precision: str) -> None:
    import torch

    rows, model, tokenizer = sound
    model.train()
    before = torch.get_rng_state()
    run_preflight(write_job(tmp_path, packing=True, precision=precision), (rows, model, tokenizer))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
@pytest.mark.parametrize("where", ["the end", "the reasoning"])
def test_special_tokens_of_the_student_in_a_completion_are_caught(
    mark: str, where: str, tmp_path: Path
) -> None:
    from pipeline.train.trainer.loss_mask import tokens_of

    def spoil(row: dict[str, Any], n: int) -> dict[str, Any]:
        prompt, (answer,) = row["prompt"], row["completion"]
        text = answer["content"]
        text = text + mark if where == "the end" else text.replace("up from", f"up {mark} from")
        messages = {
            "prompt": prompt,
            "completion": [{**answer, "content": text if n == 4 else answer["content"]}],
        }
        return messages | tokens_of([messages], tokenizer)[0]

    rows, model, tokenizer = prepared()
    name, why = failure(write_job(tmp_path), (rows.map(spoil, with_indices=True), model, tokenizer))
    assert name == "no special token before the end"
    assert why.startswith(f"example p4-0: the completion contains '{mark}'")
    assert why.endswith("(1 of 6 examples)")


def test_special_tokens_of_the_template_and_reasoning_tags_are_allowed(tmp_path: Path) -> None:
    channel = CHATML.replace(
        "message['content'] + '<|im_end|>", "'<|endoftext|>' + message['content'] + '<|im_end|>"
    )
    run_preflight(
        write_job(tmp_path), prepared(channel.replace("assistant\n' }}{% endif", "assistant\n' }}{% endif"))
    )
    tags = prepared()
    tags[2].add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    from pipeline.train.trainer.loss_mask import tokens_of

    rows = tags[0].map(lambda row: tokens_of([row], tags[2])[0])
    run_preflight(write_job(tmp_path), (rows, *tags[1:]))


def test_a_prompt_with_loss_is_caught(tmp_path: Path) -> None:
    assert failure(write_job(tmp_path), prepared(completion_only=False))[0] == "prompt has no loss"


@pytest.mark.parametrize("as_file", [True, False])
def test_another_template_at_evaluation_is_caught(sound: Any, tmp_path: Path, as_file: bool) -> None:
    served = tmp_path / "chat.jinja"
    served.write_text(BARE)
    name, why = failure(write_job(tmp_path, str(served) if as_file else BARE), sound)
    assert name == "server renders the same prompt"
    assert "wrong template at evaluation" in why


def test_serving_with_the_same_template_is_fine(sound: Any, tmp_path: Path) -> None:
    run_preflight(write_job(tmp_path, CHATML), sound)


def test_an_unreadable_served_template_is_named(sound: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"student.vllm.chat_template nowhere.jinja: cannot be read"):
        run_preflight(write_job(tmp_path, "nowhere.jinja"), sound)


def test_a_template_whose_generation_prompt_differs_from_its_answers_is_caught(tmp_path: Path) -> None:
    assert failure(write_job(tmp_path), prepared(BARE))[0] == "server renders the same prompt"


def test_a_template_that_opens_the_reasoning_in_the_prompt_is_fine(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    run_preflight(job, prepared(OPENS))
    assert "<think>\n>>>Count 1 up" in report_of(job).example


def test_a_template_that_changes_the_response_is_caught(tmp_path: Path) -> None:
    assert failure(write_job(tmp_path), prepared(UPPER))[0] == "response is unchanged"


def test_a_part_of_the_completion_without_loss_is_caught_and_shown(sound: Any, tmp_path: Path) -> None:
    def unlearn(row: dict[str, Any]) -> list[int]:
        labels = list(row["labels"])
        labels[-8] = -100
        return labels

    job = write_job(tmp_path)
    failure(job, relabeled(sound, unlearn))
    assert "whole completion has loss" in [check.name for check in report_of(job).failed]
    assert report_of(job).example.count(">>>") == 2


def test_an_extra_check_is_reported_and_can_fail(sound: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with pytest.raises(UserError, match="the teacher's vocabulary is another"):
        run_preflight(
            job,
            sound,
            PreflightCheck(name="vocabulary", value="9", ok=False, why="the teacher's vocabulary is another"),
        )
    assert report_of(job).checks[-1].name == "vocabulary"


def test_a_saved_tokenizer_that_renders_differently_is_rejected(sound: Any, tmp_path: Path) -> None:
    from pipeline.train.trainer import preflight

    messages = [message.model_dump() for message in tiny_student.example(0).messages]
    tokenizer = sound[2]
    tokenizer.save_pretrained(tmp_path)
    preflight.check_saved(tmp_path, tokenizer, messages)
    (tmp_path / "chat_template.jinja").write_text(STRIPS)
    with pytest.raises(UserError, match="renders an answer differently"):
        preflight.check_saved(tmp_path, tokenizer, messages)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": "<|im_end|>"}))
    with pytest.raises(UserError, match="padding differently"):
        preflight.check_saved(tmp_path, tokenizer, messages)
