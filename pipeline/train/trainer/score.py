"""Reads the kept traces with the untrained student: `python -m pipeline.train.trainer.score JOB.json`.

Each trace is rendered as select would teach it, and measured where the training has loss. Writes the rows of
each shard to a file, which the stage `score` seals.

* surprisal: mean negative log-likelihood of a token. rank: its mean rank, clipped at score.max_rank (100).
  ratio: rank / surprisal, the Rank-Surprisal Ratio (Yang et al. 2026, arXiv 2601.14249, whose code takes the
  ratio of the two sums). Lower is better: tokens that surprise the student but are among its first choices.
* naturalness: Local Average Log Probability (Just, Ko and Jia 2025, arXiv 2510.03988, equation 2). The model
  sees the question and at most score.window (4) steps before a step. The score of a step is the mean
  log-probability of its tokens, that of a trace the mean over its steps. Higher is better.

Exit codes: 0 all shards are read; 2 refused, with one line.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import prompts
from pipeline.config.score import Scoring
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.filter.verdicts import filtered_traces
from pipeline.rows import Trace, TraceScore, TraceVerdicts
from pipeline.score.job import ScoreJob, ShardScores
from pipeline.select.chat_format import messages, response_only, untaught
from pipeline.train.trainer import load
from pipeline.train.trainer.loss_mask import tokens_of
from pipeline.train.trainer.special_tokens import IGNORED
from pipeline.train.trainer.steps import Step, steps
from pipeline.train.trainer.surprisal import Text, read

GROUP = 64  # traces read at once, with the windows of all their steps


class Reader(NamedTuple):
    """The model that reads, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def reader(job: ScoreJob) -> Reader:
    """Loads the model. Raises UserError."""
    tokenizer = load.tokenizer_of(job.model, "score.model")
    if not tokenizer.chat_template:
        raise UserError(f"score.model {job.model}: its tokenizer has no chat template: use an instruct model")
    dtype = torch.bfloat16 if job.bf16 else torch.float32
    return Reader(load.for_reading(job.model, dtype, "score.model"), tokenizer)


def score_shard(job: ScoreJob, shard: str, it: Reader) -> ShardScores:
    """Scores the kept traces of a shard, in their order. Raises UserError for one that cannot be rendered."""
    prompt, counts = prompts.load(job.prompt), Counter[str]()
    rows: dict[str, TraceScore] = {}
    taught: list[Trace] = []
    texts: list[Text] = []
    for trace in _kept(job, shard):
        counts["kept"] += 1
        if why := untaught(trace, job.reasoning):
            counts[why] += 1
            continue
        shown = trace if job.reasoning == "tags" else response_only(trace)
        text = _text(shown, prompt, it.tokenizer)
        too_long = len(text.ids) > job.settings.max_length
        counts["too_long" if too_long else "scored"] += 1
        rows[trace.id] = _row(trace, len(text.ids) - text.first)
        if not too_long:
            taught.append(trace)
            texts.append(text)
    for start in range(0, len(taught), GROUP):
        group = slice(start, start + GROUP)
        ids = [trace.id for trace in taught[group]]
        for id, values in zip(ids, _values(ids, texts[group], it, job.settings), strict=True):
            rows[id] = rows[id].model_copy(update=values)
    return ShardScores(rows=tuple(rows.values()), counts=dict(counts))


def _kept(job: ScoreJob, shard: str) -> Iterator[Trace]:
    traces, verdicts = Output(job.traces, Trace), Output(job.verdicts, TraceVerdicts)
    for trace in filtered_traces(traces.shard(shard), verdicts.shard(shard)):
        if trace.outcome == "kept":
            yield trace


def _text(trace: Trace, prompt: prompts.Prompt, tokenizer: PreTrainedTokenizerBase) -> Text:
    """The tokens as they are trained on; those with loss are the last ones."""
    *given, answer = (message.model_dump() for message in messages(trace, prompt))
    try:
        (tokens,) = tokens_of([{"prompt": given, "completion": [answer]}], tokenizer)
    except TemplateError as e:
        raise UserError(f"trace {trace.id}: the chat template of the model refuses it: {e}") from None
    has_loss = tokens["labels"] != IGNORED
    if not has_loss.any():
        raise UserError(f"trace {trace.id}: no token has loss: the chat template drops the assistant's text")
    return Text(tokens["input_ids"], max(1, int(has_loss.argmax())))


def _row(trace: Trace, tokens: int) -> TraceScore:
    unknown = dict.fromkeys(("surprisal", "rank", "ratio", "steps", "naturalness"))
    same = {name: getattr(trace, name) for name in ("id", "problem_id", "source", "teacher")}
    return TraceScore.model_validate({**same, "tokens": tokens, **unknown})


def _values(
    ids: Sequence[str], texts: Sequence[Text], it: Reader, settings: Scoring
) -> list[dict[str, float | int | None]]:
    """The columns of each trace that the model decides."""
    values: list[dict[str, float | int | None]] = [{} for _ in texts]
    for n, reading in read(it.model, texts, settings.batch_tokens):
        if not np.isfinite(reading.surprisals).all():
            raise UserError(f"trace {ids[n]}: the model gives no number: try score.precision = 'fp32'")
        surprisal = float(reading.surprisals.mean())
        rank = float(np.minimum(reading.ranks, settings.max_rank).mean())
        values[n] |= {"surprisal": surprisal, "rank": rank, "ratio": rank / surprisal if surprisal else None}
    if settings.local:
        for n, means in enumerate(_naturalness(texts, it, settings)):
            values[n] |= {"steps": len(means), "naturalness": float(np.mean(means)) if means else None}
    return values


def _naturalness(texts: Sequence[Text], it: Reader, settings: Scoring) -> list[list[float]]:
    """The mean log-probability of a token for each step of each text, steps of tags alone left out."""
    windows: list[Text] = []
    text_of: list[int] = []
    for n, text in enumerate(texts):
        found = steps(text.ids.tolist(), text.first, it.tokenizer)
        local = [_window(text, found, i, settings.window) for i, step in enumerate(found) if step.said]
        windows += local
        text_of += [n] * len(local)
    means: list[list[float]] = [[] for _ in texts]
    read_windows = dict(read(it.model, windows, settings.batch_tokens))
    for number, n in enumerate(text_of):
        means[n].append(-float(read_windows[number].surprisals.mean()))
    return means


def _window(text: Text, found: Sequence[Step], at: int, window: int) -> Text:
    """The question, at most `window` steps, and the step `at`, which alone is measured."""
    begin, step = found[max(0, at - window)].start, found[at]
    ids = np.concatenate([text.ids[: text.first], text.ids[begin : step.end]])
    return Text(ids, text.first + step.start - begin)


def main(job_file: str) -> int:
    job = ScoreJob.model_validate_json(Path(job_file).read_bytes())
    try:
        it = reader(job)
        print(f"reading with {job.model} on {it.model.device} in {it.model.dtype}", flush=True)
        for shard in job.shards:
            found = score_shard(job, shard, it)
            write_atomic(job.scores(shard), found.model_dump_json().encode())
            print(f"{shard}: {found.counts}", flush=True)
    except UserError as e:
        return job.refuse(e)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipeline.train.trainer.score JOB.json")
    sys.exit(main(sys.argv[1]))
