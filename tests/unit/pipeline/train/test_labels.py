"""The stage in which the teacher reads the selected examples, with the fake server over real HTTP."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.engine.execute import DONE, ITEMS_FAILED, execute
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.generate.usage import UsageMeter
from pipeline.rows import SoftLabels
from pipeline.train import labels
from pipeline.train.labels import LABELS, Text
from tests import tiny_student
from tests.conftest import StartFakeServer
from tests.serving import Script, client, serving

pytest.importorskip("trl")


def recipe(student: Path | str, url: str, generate: dict[str, Any] | None = None, **table: Any) -> Recipe:
    teacher = {"model": "fake", "base_url": url, "max_retries": 0}
    given = tiny_student.recipe(str(student), objective="topk_kd", topk_kd={"teacher": teacher, **table})
    return Recipe.model_validate(
        given.model_dump() | {"generate": {"prompt": "arithmetic", **(generate or {})}}
    )


def run(given: Recipe, run_dir: Path, count: int) -> tuple[int, list[SoftLabels]]:
    """Lets select write so many examples anew, then the teacher read them."""
    shutil.rmtree(run_dir / "select", ignore_errors=True)
    validation = tiny_student.example(99, "validation")  # measures cross-entropy, and is not read
    tiny_student.train_job(given, run_dir, [*(tiny_student.example(n) for n in range(count)), validation])
    code = execute(LABELS, given, run_dir)
    return code, list(LABELS.output(run_dir).rows()) if code == DONE else []


def test_every_token_with_loss_is_read_and_nothing_is_paid_twice(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    student = tiny_student.save(tmp_path / "student")
    failing = fake_server("--faulty-attempts", "1", faults={"500": 0.4})
    given = recipe(student, failing.url, {"concurrency": 4})
    code, _ = run(given, tmp_path / "run", 12)
    assert code == ITEMS_FAILED
    code, rows = run(given, tmp_path / "run", 12)
    assert code == DONE
    assert [row.id for row in rows] == [f"p{n}-0" for n in range(12)]
    tokenizer = tiny_student.tokenizer()
    for number, row in enumerate(rows):
        said = tiny_student.example(number).messages[-1].content
        assert list(row.tokens) == [*tokenizer.encode(said), 2, *tokenizer.encode("\n")]
        assert len(row.logprobs) * row.k == len(row.top_tokens) == len(row.top_logprobs)
        assert row.k == 20
        assert row.error is None
    paid = failing.stats()["answered"]
    assert sorted(paid.values())[:-1] == [1] * 11  # the shortest is read once more by each command, to try

    another = fake_server()
    code, more = run(recipe(student, another.url), tmp_path / "run", 15)
    assert code == DONE
    assert more[:12] == rows
    assert another.stats()["requests"] == 3 + 1


def test_examples_over_the_maximum_length_are_read_once_they_fit(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server, student = fake_server(), tiny_student.save(tmp_path / "student")
    given = recipe(student, server.url)
    lengths = []
    for n in range(12):  # a count of two digits is a longer text
        messages = [m.model_dump() for m in tiny_student.example(n).messages]
        lengths.append(len(tiny_student.tokenizer().apply_chat_template(messages, return_dict=False)))
    shorter = given.model_copy(update={"train": given.train.model_copy(update={"max_length": min(lengths)})})
    code, rows = run(shorter, tmp_path / "run", 12)
    assert code == DONE
    assert 0 < len(rows) == lengths.count(min(lengths)) < 12
    assert server.stats()["requests"] == len(rows) + 1

    code, rows = run(given, tmp_path / "run", 12)
    assert (code, len(rows)) == (DONE, 12)
    assert server.stats()["requests"] == 12 + 2


def test_a_server_that_gives_no_labels_is_refused_after_one_request(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--no-logprobs")
    given = recipe(tiny_student.save(tmp_path / "student"), server.url)
    with pytest.raises(UserError, match=r"topk_kd: http.*sends no prompt_logprobs.* are needed"):
        run(given, tmp_path / "run", 6)
    assert server.stats()["requests"] == 1


@pytest.mark.parametrize(
    ("theirs", "refusal"),
    [
        (["a", " b"], None),
        (["a", None], None),
        (["\N{REPLACEMENT CHARACTER}", "b"], None),
        (["a", "c"], "the token 7 is 'b' for the student and 'c' for the teacher"),
    ],
)
def test_a_teacher_with_another_tokenizer_is_refused(
    tmp_path: Path, theirs: list[str | None], refusal: str | None
) -> None:
    positions = [{str(n): {"logprob": -1.0, "decoded_token": text}} for n, text in zip((6, 7), theirs)]  # noqa: B905
    choice = {"text": " ", "finish_reason": "length", "prompt_logprobs": [None, *positions]}
    text = Text("p", np.array([5], np.int32), np.array([6, 7], np.int32), ["a", "b"])

    async def check() -> None:
        async with serving(Script({"choices": [choice], "usage": None})) as url, client(url) as teacher:
            meter = UsageMeter("fake", recipe("org/name", url), teacher.pool)  # type: ignore[arg-type]
            job = Job(LABELS, recipe("org/name", url), tmp_path)
            await labels._Worker(teacher, meter, 1).check(text, job)

    if refusal is None:
        asyncio.run(check())
        return
    with pytest.raises(UserError, match=refusal):
        asyncio.run(check())


def test_the_teacher_reads_the_answer_after_its_own_prompt_if_wanted(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    import prompts
    from pipeline.rows import Trace
    from pipeline.train.job import LabelJob
    from pipeline.train.trainer import label_tokens

    prompt, traces = prompts.load("arithmetic"), Output(tmp_path / "generate", Trace)
    question: dict[str, Any] = {"question": "What is 2 + 1?", "reference": "3", "answer_type": "number"}
    unknown = ("prompt", "prompt_hash", "sampling", "seed", "reasoning", "prompt_tokens", "completion_tokens")
    said = {"response": "3", "finish_reason": "stop", "sample": 0, "teacher": "t", "source": "sums"}
    trace = Trace(id="p1-0", problem_id="p1", **question, **said, **dict.fromkeys(unknown))
    traces.folder.mkdir()
    traces.shard("shard-00000").write([trace.model_dump()])
    examples = tiny_student.write_examples(tmp_path / "shard-00000.parquet", [tiny_student.example(1)])
    tokenizer = tiny_student.tokenizer()
    contexts = []
    for name in ("arithmetic", None):
        cache = tmp_path / f"cache-{name}"
        job = LabelJob(
            model="", prompt=name, examples=(examples,), traces=traces.folder, max_length=512, cache=cache
        )
        job.cache.mkdir()
        label_tokens.write(job, examples, tokenizer)
        (row,) = pq.read_table(job.cache / examples.name).to_pylist()
        assert tokenizer.decode(row["answer"]) == "".join(row["texts"])
        assert row["texts"][-2:] == ["<|im_end|>", "\n"]
        contexts.append(tokenizer.decode(row["context"]))
    asked = [message.model_dump() for message in prompt.render(trace)]
    assert contexts[0] == tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert contexts[1] == "<|im_start|>user\n2 + 1?<|im_end|>\n<|im_start|>assistant\n"


def test_a_shard_without_an_example_has_nothing_to_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from pipeline.train.job import LabelJob
    from pipeline.train.trainer import label_tokens

    examples = tiny_student.write_examples(tmp_path / "shard-00000.parquet", [])
    cache = tmp_path / "cache"
    cache.mkdir()
    job = LabelJob(
        model="", prompt="arithmetic", examples=(examples,), traces=tmp_path, max_length=512, cache=cache
    )
    label_tokens.write(job, examples, tiny_student.tokenizer())
    assert pq.read_table(cache / examples.name).num_rows == 0


def test_what_the_recipe_lacks_is_said_before_any_work() -> None:
    given = recipe("org/name", "http://127.0.0.1:1/v1")
    several = given.model_dump()
    several["train"]["topk_kd"]["teacher"] = None
    several["teacher"] = [several["teacher"][0] | {"name": name} for name in ("one", "two")]
    with pytest.raises(UserError, match=r"the recipe has 2: add a table \[train.topk_kd.teacher\]"):
        labels.check(Recipe.model_validate(several))
    table = given.model_dump() | {"teacher": [], "generate": {}}
    table["train"]["topk_kd"]["prompt"] = "teacher"
    with pytest.raises(UserError, match=r"train.topk_kd.prompt = 'teacher' needs generate.prompt"):
        labels.check(Recipe.model_validate(table))
