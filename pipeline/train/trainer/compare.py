"""Compares how models predict the same texts: `python -m pipeline.train.trainer.compare JOB.json`.

p and q are the distributions over the next token of the first model and of another. Logits exist for one
slice of tokens at a time. Exit codes: 0 all texts are read; 2 refused, with one line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.train.comparison import CompareJob, Dialogue, Likeness
from pipeline.train.trainer import heads, load, quantized, teachers, tiles
from pipeline.train.trainer.example_checks import contains
from pipeline.train.trainer.loss_mask import tokens_of
from pipeline.train.trainer.special_tokens import IGNORED


class Agreement(NamedTuple):
    """Of n tokens, each (n,)."""

    overlap: Tensor
    divergence: Tensor
    same: Tensor


def agreement(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Agreement:
    """(n, V), (n, V) -> overlap sum_x min(p(x), q(x)), KL(p || q), and whether both have the same likeliest.

    The overlap is the probability that speculative sampling accepts a token that is drawn from q (Leviathan
    et al. 2022, arXiv 2211.17192, theorem 3.5: beta = 1 - D_LK). The divergence is that at temperature 1.
    """
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    same = log_p.argmax(-1) == log_q.argmax(-1)
    if temperature:
        p, q = ((logits / temperature).softmax(-1) for logits in (log_p, log_q))
        overlap = torch.minimum(p, q).sum(-1)
    else:
        overlap = same.float()
    return Agreement(overlap, (log_p.exp() * (log_p - log_q)).sum(-1), same)


@torch.inference_mode()
def likeness(id: str, ids: Tensor, first: int, models: Sequence[Any], temperature: float) -> Likeness:
    """How alike two models predict the tokens of a text from position `first` on."""
    states, outputs = [], []
    for model in models:
        hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
        states.append(hidden[0, first - 1 : -1])
        outputs.append(heads.head_of(model))
    shared = min(head.vocabulary for head in outputs)
    sums = [0.0, 0.0, 0.0]
    for parts in tiles.slices(shared, *states):
        logits = [
            head.finished(head.product(part, part.dtype))[:, :shared]
            for head, part in zip(outputs, parts, strict=True)
        ]
        found = agreement(logits[0], logits[1], temperature)
        sums = [total + float(values.double().sum()) for total, values in zip(sums, found, strict=True)]
    return Likeness(id=id, tokens=len(states[0]), overlap=sums[0], divergence=sums[1], same=int(sums[2]))


def _texts(job: CompareJob, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, Any, int]]:
    """The id, the tokens and the first token that counts of each dialogue, by the first model's template."""
    for line in job.dialogues.read_text("utf-8").splitlines():
        dialogue = Dialogue.model_validate_json(line)
        *given, answer = (message.model_dump() for message in dialogue.messages)
        try:
            (tokens,) = tokens_of([{"prompt": given, "completion": [answer]}], tokenizer)
        except TemplateError as e:
            raise UserError(f"{dialogue.id}: the chat template of {job.model} refuses it: {e}") from None
        has_loss = tokens["labels"] != IGNORED
        if not has_loss.any():
            raise UserError(f"{dialogue.id}: the chat template of {job.model} drops the answer")
        reasoning, tag, _ = answer["content"].partition("</think>")
        read = str(tokenizer.decode(tokens["input_ids"][has_loss]))
        if tag and not contains(read, reasoning.replace("<think>", "")):
            raise UserError(
                f"{dialogue.id}: the chat template of {job.model} drops the reasoning of an answer, so the "
                "models cannot be compared on it"
            )
        yield dialogue.id, tokens["input_ids"], max(1, int(has_loss.argmax()))


def compare(job: CompareJob) -> list[list[Likeness]]:
    """Reads every text with all models. Raises UserError, at once where the vocabularies differ."""
    tokenizer = load.tokenizer_of(job.model)
    for other in job.others:
        if differ := teachers.differing_tokens(load.tokenizer_of(other.model), tokenizer):
            raise UserError(
                f"{other.model}: its vocabulary is not that of {job.model}, so their predictions cannot be "
                f"compared: {len(differ)} tokens differ, among them {differ[0]!r}"
            )
    texts = list(_texts(job, tokenizer))
    if not texts:
        return [[] for _ in job.others]
    dtype = torch.bfloat16 if job.bf16 else torch.float32
    whole = load.for_reading(job.model, dtype)
    models = []
    for other in job.others:
        model = load.for_reading(other.model, dtype)
        if other.quantized:
            quantized.put_in(model, other.quantized)
        models.append(model)
    for name, model in zip((job.model, *(o.model for o in job.others)), (whole, *models), strict=True):
        heads.check(name, model)
    found: list[list[Likeness]] = [[] for _ in models]
    for id, tokens, first in texts:
        ids = torch.as_tensor(tokens, dtype=torch.long, device=whole.device)
        for model, of_one in zip(models, found, strict=True):
            of_one.append(likeness(id, ids, first, (whole, model), job.temperature))
    return found


def main(job_file: str) -> int:
    job = CompareJob.model_validate_json(Path(job_file).read_bytes())
    try:
        found = compare(job)
    except UserError as e:
        return job.refuse(e)
    plain = [[each.model_dump() for each in of_one] for of_one in found]
    write_atomic(job.result, json.dumps(plain).encode())
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipeline.train.trainer.compare JOB.json")
    sys.exit(main(sys.argv[1]))
