"""The scores of traces against plain definitions in float64, with a tiny student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from pipeline.config.score import Scoring
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import Row, Sampling, Trace, TraceScore, TraceVerdicts
from pipeline.score.job import ScoreJob
from pipeline.train.trainer.score import Reader, score_shard
from tests import tiny_student

SHARD = "shard-00000"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(tiny_student.model(seed=5).double().eval(), tiny_student.tokenizer())


def trace(number: int, reasoning: str | None, response: str = "So 4.", outcome: str = "kept") -> Trace:
    return Trace.model_validate(
        {"id": f"p-0-{number}", "problem_id": "p", "sample": number, "question": "2 + 2?", "reference": "4",
         "answer_type": "math", "source": "sums", "teacher": "t", "prompt": "plain", "prompt_hash": "h",
         "seed": 1, "sampling": Sampling(temperature=1, top_p=1, max_tokens=9), "reasoning": reasoning,
         "response": response, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1,
         "outcome": outcome}
    )  # fmt: skip


def write(folder: Path, row: type[Row], rows: list[Row]) -> Path:
    output = Output(folder, row)
    output.save(Manifest(stage=folder.name, version=1, settings={}, inputs={}, shards=(SHARD,)))
    output.write(SHARD, rows)
    output.finish()
    return folder


def scored(
    folder: Path, reader: Reader, traces: list[Trace], reasoning: str = "tags", **settings: Any
) -> tuple[list[TraceScore], dict[str, int]]:
    unfiltered = [t.model_copy(update={"outcome": "unfiltered"}) for t in traces]
    fields = set(TraceVerdicts.model_fields)
    verdicts: list[Row] = [TraceVerdicts(**t.model_dump(include=fields)) for t in traces]
    job = ScoreJob.model_validate(
        {"model": "tiny", "bf16": False, "settings": Scoring(**settings), "reasoning": reasoning,
         "prompt": "plain", "traces": write(folder / "generate", Trace, list(unfiltered)),
         "verdicts": write(folder / "filter", TraceVerdicts, verdicts), "shards": (SHARD,),
         "cache": folder}
    )  # fmt: skip
    found = score_shard(job, SHARD, reader)
    return list(found.rows), found.counts


def logprobs(reader: Reader, prompt: str, said: str) -> tuple[list[float], list[int]]:
    """The log-probability and the rank of each token of `said` after `prompt`, one byte a token."""
    before, ids = (reader.tokenizer(text)["input_ids"] for text in (prompt, said))
    with torch.no_grad():
        logits: Any = reader.model(torch.tensor([before + ids])).logits[0]
    values = torch.log_softmax(logits, -1)
    at = range(len(before) - 1, len(before) + len(ids) - 1)
    ranks = [int((logits[p] > logits[p][y]).sum()) + 1 for p, y in zip(at, ids, strict=True)]
    return [float(values[p][y]) for p, y in zip(at, ids, strict=True)], ranks


PROMPT = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
STEPS = ("<think>", "\nI add.", " I count.", " It is 4.", "\n</think>", "\n\nSo 4.<|im_end|>", "\n")


def test_surprisal_rank_and_ratio_are_those_of_the_tokens_with_loss(tmp_path: Path, reader: Reader) -> None:
    values, ranks = logprobs(reader, PROMPT, "".join(STEPS))
    (row,), counts = scored(tmp_path, reader, [trace(0, "I add. I count. It is 4.")], max_rank=50)
    clipped = np.minimum(ranks, 50)
    assert max(ranks) > 50, "the limit must matter"
    assert row.tokens == len(values)
    assert row.surprisal == pytest.approx(-np.mean(values), rel=1e-9)
    assert row.rank == pytest.approx(np.mean(clipped))
    assert row.ratio == pytest.approx(sum(clipped) / -sum(values), rel=1e-9)
    assert counts == {"kept": 1, "scored": 1}


@pytest.mark.parametrize("window", [0, 1, 4])
def test_local_naturalness_sees_the_question_and_a_few_steps(
    tmp_path: Path, reader: Reader, window: int
) -> None:
    (row,), _ = scored(tmp_path, reader, [trace(0, "I add. I count. It is 4.")], window=window)
    means = []
    for n, step in enumerate(STEPS):
        if n in (1, 2, 3, 5):  # the others are tags and white space
            before = "".join(STEPS[max(0, n - window) : n])
            means.append(np.mean(logprobs(reader, PROMPT + before, step)[0]))
    assert row.steps == 4
    assert row.naturalness == pytest.approx(np.mean(means), rel=1e-9)


def test_every_kept_trace_is_counted_once(tmp_path: Path, reader: Reader) -> None:
    traces = [
        trace(0, "I add."),
        trace(1, None),
        trace(2, "x", response=" "),
        trace(3, "long " * 200),
        trace(4, "y", outcome="rejected"),
    ]
    rows, counts = scored(tmp_path, reader, traces, max_length=300, local=False)
    assert counts == {"kept": 4, "scored": 1, "too_long": 1, "without_reasoning": 1, "without_answer": 1}
    assert [row.id for row in rows] == ["p-0-0", "p-0-3"]
    assert rows[0].surprisal is not None
    assert (rows[0].steps, rows[0].naturalness) == (None, None)
    assert (rows[1].surprisal, rows[1].rank, rows[1].ratio) == (None, None, None)
    assert rows[1].tokens > 1000


def test_without_tags_the_response_alone_is_read(tmp_path: Path, reader: Reader) -> None:
    (row,), _ = scored(tmp_path, reader, [trace(0, "I add.")], reasoning="none")
    values, _ = logprobs(reader, PROMPT, "So 4.<|im_end|>\n")
    assert row.surprisal == pytest.approx(-np.mean(values), rel=1e-9)
    assert row.naturalness == pytest.approx(np.mean(values[:-1]), rel=1e-9)


def test_a_model_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    broken = tiny_student.model().double()
    torch.nn.init.constant_(broken.lm_head.weight, float("nan"))
    with pytest.raises(UserError, match=r"trace p-0-0: the model gives no number"):
        scored(tmp_path, Reader(broken, tiny_student.tokenizer()), [trace(0, "I add.")])
