"""The preflight on what TRL itself makes of examples: each planted fault is caught by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.config.training import Train
from pipeline.errors import UserError
from pipeline.train.job import Check, Preflight, TrainJob, read_preflight
from tests import tiny_student
from tests.tiny_student import CHATML

pytest.importorskip("trl")

# Keeps of past answers only what follows the thought, as many reasoning models' templates do.
STRIPS = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
UPPER = CHATML.replace("message['content']", "message['content'].replace('boxed', 'BOXED')")
OPENS = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
BARE = CHATML.replace("<|im_start|>assistant\n' }}{% endif", "<|im_start|>helper\n' }}{% endif")
END = 2


def write_job(
    folder: Path, served: str | None = None, reasoning: Literal["tags", "none"] = "tags", **train: Any
) -> TrainJob:
    settings: dict[str, Any] = {"precision": "fp32"} | train
    return TrainJob(
        model="",
        examples=(),
        output=folder / "model",
        checkpoints=folder / "checkpoints",
        train=Train(**settings),
        reasoning=reasoning,
        served_template=served,
    )


def prepared(
    template: str = CHATML, completion_only: bool = True, cut: int | None = None, plain: bool = False
) -> tuple[Any, Any, Any]:
    """Rows as the trainer would see them, made by TRL itself; the model; its tokenizer."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from pipeline.train.trainer import tokens

    tokenizer, model = tiny_student.tokenizer(template), tiny_student.model()
    tokens.set_padding(tokenizer, END)
    examples = [tiny_student.example(n).model_dump() for n in range(6)]
    for message in (e["messages"][-1] for e in examples if plain):
        message["content"] = message["content"].replace("<think>\n", "").replace("</think>\n", "")
    made: Any = SFTTrainer(
        model=model,
        args=SFTConfig(
            use_cpu=True, bf16=False, max_length=cut, completion_only_loss=completion_only, report_to="none"
        ),
        train_dataset=datasets.Dataset.from_list(
            [
                {
                    "id": e["id"],
                    "split": "train",
                    "prompt": e["messages"][:-1],
                    "completion": e["messages"][-1:],
                }
                for e in examples
            ]
        ),
        processing_class=tokenizer,
    )
    return made.train_dataset, model, tokenizer


@pytest.fixture(scope="module")
def sound() -> tuple[Any, Any, Any]:
    return prepared()


def look(job: TrainJob, made: tuple[Any, Any, Any], *extra: Check) -> None:
    from pipeline.train.trainer import packing, preflight, supervision

    rows, model, tokenizer = made
    served = supervision.template(job.served_template)
    half = len(rows) // 2  # looked at in two parts, as by two processes
    halves = [rows.select(range(half)), rows.select(range(half, len(rows)))]
    first, second = (preflight.look(part, tokenizer, END, served, job) for part in halves)
    table = preflight.table(first.then(second), tokenizer, END, job, extra)
    if job.train.packing:
        checks = (*table.checks, packing.check(rows, model, job))
        table = table.model_copy(update={"checks": checks})
    preflight.conclude(table, job)


def refusal(job: TrainJob, made: tuple[Any, Any, Any]) -> tuple[str, str]:
    """The name of the first check that failed and the line that the user sees."""
    with pytest.raises(UserError) as raised:
        look(job, made)
    first = table(job).failed[0]
    assert str(raised.value) == first.why
    assert "\n" not in first.why
    return first.name, first.why


def table(job: TrainJob) -> Preflight:
    written = read_preflight(job.preflight)
    assert written
    return written


def relabelled(
    made: tuple[Any, Any, Any], change: Callable[[dict[str, Any]], list[int]]
) -> tuple[Any, Any, Any]:
    return (made[0].map(lambda row: {"labels": change(row)}), *made[1:])


def test_a_sound_training_passes_every_check_and_loses_no_example(sound: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path, packing=True)
    look(job, sound)
    seen = table(job)
    assert not seen.failed
    assert [check.name for check in seen.checks] == [
        "padding is not the end",
        "something is supervised",
        "prompt is not trained",
        "end token has loss",
        "no mark before the end",
        "thought after the template",
        "answer unchanged",
        "whole answer has loss",
        "asked as trained",
        "supervised tokens",
        "longest example",
        "at most 4096 tokens",
        "packed against unpacked",
    ]
    lengths = [len(ids) for ids in sound[0]["input_ids"]]
    supervised = sum(label != -100 for labels in sound[0]["labels"] for label in labels)
    assert (seen.examples, seen.left_out, seen.longest) == (6, (), max(lengths))
    assert seen.supervised == pytest.approx(supervised / sum(lengths))


def test_the_example_shown_has_what_is_learned_marked(sound: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    look(job, sound)
    asked, answer = (message.content for message in tiny_student.example(0).messages)
    start = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    assert table(job).example == f"{start}>>>{answer}<|im_end|>\n<<<"


def test_of_examples_without_a_thought_none_is_looked_for_and_all_else_is(tmp_path: Path) -> None:
    job, made = write_job(tmp_path, reasoning="none"), prepared(plain=True)
    look(job, made)
    names = [check.name for check in table(job).checks]
    assert "thought after the template" not in names
    assert names.count("answer unchanged") == 1
    assert refusal(write_job(tmp_path), made)[0] == "thought after the template"
    assert refusal(job, prepared(OPENS, plain=True))[0] == "asked as trained"


def test_planted_a_template_that_strips_the_thought(tmp_path: Path) -> None:
    name, why = refusal(write_job(tmp_path), prepared(STRIPS))
    assert name == "thought after the template"
    assert why.startswith("example p0-0: the student's chat template drops the thought")
    assert why.endswith("(6 of 6 examples)")


def test_planted_an_end_token_without_loss(sound: Any, tmp_path: Path) -> None:
    masked = relabelled(sound, lambda row: [-100 if token == END else token for token in row["labels"]])
    assert refusal(write_job(tmp_path), masked)[0] == "end token has loss"


def test_planted_padding_that_is_the_end(sound: Any, tmp_path: Path) -> None:
    rows, model, _ = sound
    assert (
        refusal(write_job(tmp_path), (rows, model, tiny_student.tokenizer()))[0] == "padding is not the end"
    )


def test_planted_rows_with_every_label_masked(sound: Any, tmp_path: Path) -> None:
    masked = relabelled(sound, lambda row: [-100] * len(row["labels"]))
    name, why = refusal(write_job(tmp_path), masked)
    assert name == "something is supervised"
    assert "nothing of the answer to learn from" in why


def test_planted_examples_that_are_too_long_are_named_and_never_cut(sound: Any, tmp_path: Path) -> None:
    name, why = refusal(write_job(tmp_path, max_length=16), sound)
    longest = max(len(ids) for ids in sound[0]["input_ids"])
    assert name == "at most 16 tokens"
    assert why.startswith(
        f"6 of 6 examples are longer than train.max_length = 16 tokens, the longest {longest}"
    )
    assert table(write_job(tmp_path)).left_out == tuple(f"p{n}-0" for n in range(6))


def test_examples_that_trl_has_cut_are_refused(tmp_path: Path) -> None:
    assert refusal(write_job(tmp_path), prepared(cut=70))[0] == "end token has loss"


def test_few_that_are_too_long_are_left_out_and_named(sound: Any, tmp_path: Path) -> None:
    rows, model, tokenizer = sound
    long = rows.select([3]).map(lambda row: {name: row[name] * 9 for name in ("input_ids", "labels")})
    from datasets import concatenate_datasets

    mixed = concatenate_datasets([rows.select([0, 1]), long, rows.select([4])]), model, tokenizer
    assert (
        refusal(write_job(tmp_path, max_length=200, max_overlong_fraction=0.2), mixed)[0]
        == "at most 200 tokens"
    )
    job = write_job(tmp_path, max_length=200, max_overlong_fraction=0.25)
    look(job, mixed)
    assert table(job).examples == 3
    assert table(job).left_out == ("p3-0",)
    assert "1 of 4 left out: p3-0" in [check.value for check in table(job).checks]


def test_a_training_of_which_nothing_is_left_is_refused(sound: Any, tmp_path: Path) -> None:
    why = refusal(write_job(tmp_path, max_length=16, max_overlong_fraction=1), sound)[1]
    assert why.endswith("without them nothing is left to train on")


def test_planted_an_attention_that_lets_packed_examples_see_each_other(sound: Any, tmp_path: Path) -> None:
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
    look(write_job(tmp_path), (rows, model, tokenizer))  # unpacked it is as good as any
    name, why = refusal(write_job(tmp_path, packing=True), (rows, model, tokenizer))
    assert name == "packed against unpacked"
    assert why.startswith("packing: with attention 'leaky' packed examples see each other: the loss is")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packing_is_measured_without_a_trace(sound: Any, tmp_path: Path, precision: str) -> None:
    import torch

    rows, model, tokenizer = sound
    model.train()
    before = torch.get_rng_state()
    look(write_job(tmp_path, packing=True, precision=precision), (rows, model, tokenizer))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
@pytest.mark.parametrize("where", ["the end", "the thought"])
def test_planted_marks_of_the_student_s_own_turns_in_what_is_learned(
    mark: str, where: str, tmp_path: Path
) -> None:
    from pipeline.train.trainer.data import tokens_of

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
    name, why = refusal(write_job(tmp_path), (rows.map(spoil, with_indices=True), model, tokenizer))
    assert name == "no mark before the end"
    assert why.startswith(f"example p4-0: '{mark}' stands within what is learned")
    assert why.endswith("(1 of 6 examples)")


def test_a_template_s_own_marks_within_an_answer_and_tags_of_a_thought_are_no_fault(tmp_path: Path) -> None:
    channel = CHATML.replace(
        "message['content'] + '<|im_end|>", "'<|endoftext|>' + message['content'] + '<|im_end|>"
    )
    look(write_job(tmp_path), prepared(channel.replace("assistant\n' }}{% endif", "assistant\n' }}{% endif")))
    tags = prepared()
    tags[2].add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    from pipeline.train.trainer.data import tokens_of

    rows = tags[0].map(lambda row: tokens_of([row], tags[2])[0])
    look(write_job(tmp_path), (rows, *tags[1:]))


def test_planted_a_prompt_that_is_trained(tmp_path: Path) -> None:
    assert refusal(write_job(tmp_path), prepared(completion_only=False))[0] == "prompt is not trained"


@pytest.mark.parametrize("as_file", [True, False])
def test_planted_another_template_at_evaluation(sound: Any, tmp_path: Path, as_file: bool) -> None:
    served = tmp_path / "chat.jinja"
    served.write_text(BARE)
    name, why = refusal(write_job(tmp_path, str(served) if as_file else BARE), sound)
    assert name == "asked as trained"
    assert "wrong template at evaluation" in why


def test_the_same_template_given_to_the_server_is_fine(sound: Any, tmp_path: Path) -> None:
    look(write_job(tmp_path, CHATML), sound)


def test_a_template_for_the_server_that_cannot_be_read_is_named(sound: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"student.vllm.chat_template nowhere.jinja: cannot be read"):
        look(write_job(tmp_path, "nowhere.jinja"), sound)


def test_a_template_that_opens_an_answer_otherwise_than_it_writes_one_is_refused(tmp_path: Path) -> None:
    assert refusal(write_job(tmp_path), prepared(BARE))[0] == "asked as trained"


def test_a_template_that_opens_the_thought_in_the_prompt_is_fine(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    look(job, prepared(OPENS))
    assert "<think>\n>>>Count 1 up" in table(job).example


def test_a_template_that_changes_the_answer_is_refused(tmp_path: Path) -> None:
    assert refusal(write_job(tmp_path), prepared(UPPER))[0] == "answer unchanged"


def test_a_part_of_the_answer_without_loss_is_refused_and_shown(sound: Any, tmp_path: Path) -> None:
    def unlearn(row: dict[str, Any]) -> list[int]:
        labels = list(row["labels"])
        labels[-8] = -100
        return labels

    job = write_job(tmp_path)
    refusal(job, relabelled(sound, unlearn))
    assert "whole answer has loss" in [check.name for check in table(job).failed]
    assert table(job).example.count(">>>") == 2


def test_a_check_made_elsewhere_stands_in_the_table_and_refuses_too(sound: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with pytest.raises(UserError, match="the teacher's vocabulary is another"):
        look(
            job,
            sound,
            Check(name="vocabulary", value="9", ok=False, why="the teacher's vocabulary is another"),
        )
    assert table(job).checks[-1].name == "vocabulary"


def test_a_saved_student_that_writes_otherwise_is_refused(sound: Any, tmp_path: Path) -> None:
    from pipeline.train.trainer import preflight

    messages = [message.model_dump() for message in tiny_student.example(0).messages]
    tokenizer = sound[2]
    tokenizer.save_pretrained(tmp_path)
    preflight.check_saved(tmp_path, tokenizer, messages)
    (tmp_path / "chat_template.jinja").write_text(STRIPS)
    with pytest.raises(UserError, match="renders an answer otherwise"):
        preflight.check_saved(tmp_path, tokenizer, messages)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": "<|im_end|>"}))
    with pytest.raises(UserError, match="padding otherwise"):
        preflight.check_saved(tmp_path, tokenizer, messages)
