"""The preflight's checks of single examples, token by token.

A check is a function that returns what is wrong with an example, or None. ROW_CHECKS names them, the most
basic first. Texts are compared without white space, which templates trim and some tokenizers move.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from filters.text.turn_marks import TURN_MARKS
from pipeline.config.mix import ThinkingSwitch
from pipeline.errors import UserError
from pipeline.inference.thinking import NO_THINK, arguments
from pipeline.train.trainer.special_tokens import IGNORED, common_prefix, last_visible, render

BATCH = 256  # rows read at once
TAIL = 16  # tokens before the first one with loss, which may hold the template's own <think>
_EMPTY_BLOCK = re.compile(r"<think>\s*</think>")
SHOWN = 2000  # characters of each part of an example that is shown


@dataclass(frozen=True)
class DecodedExample:
    """One example as it will be trained on. Positions count tokens from 0."""

    id: str
    content: str  # of the assistant's message
    ids: Any  # numpy, as are labels
    labels: Any  # the id where the token has loss, else IGNORED
    completion_start: int  # the first position after the generation prompt
    served_prompt: list[int] | str  # the prompt as the server will render it, or why it cannot
    last: int  # the last position that is not white space
    end: int  # id of the token that ends a turn
    thinking: bool  # whether the prompt asks to think
    switched: bool  # whether the prompt differs from the one that asks to think; True where it is that one
    marks: tuple[str, ...]  # special tokens with loss before the last position that come from the content
    learned: str  # the tokens with loss, decoded
    before: str  # the few tokens before them, decoded


Check = Callable[[DecodedExample], str | None]


def decoded_examples(
    examples: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    end: int,
    served: str | None,
    switch: ThinkingSwitch | None = None,
) -> Iterator[DecodedExample]:
    """Decodes each example once. `served`: the server's template; None: the tokenizer's.

    Only with a `switch` the column `thinking` is read; otherwise every prompt is rendered without one.
    """
    columns = ["id", "prompt", "completion", "input_ids", "labels"]
    asks = examples["thinking"][:] if switch else [True] * len(examples)
    at = 0
    special, end_token = _special_ids(tokenizer), tokenizer.convert_ids_to_tokens(end)
    for batch in examples.with_format("arrow", columns=columns).iter(batch_size=BATCH):
        for n in range(len(batch)):
            id_, prompt, completion = (batch[name][n].as_py() for name in columns[:3])
            ids, labels = (batch[name][n].values.to_numpy(zero_copy_only=False) for name in columns[3:])
            content = completion[-1]["content"]
            thinking, at = asks[at], at + 1
            variables = arguments(switch, thinking)
            opening = render(tokenizer, prompt, opened=True, variables=variables)
            has_loss = labels != IGNORED
            first = int(has_loss.argmax()) if has_loss.any() else len(ids)
            last = last_visible(tokenizer, ids.tolist())
            learned = ids[:last][has_loss[:last]]
            marks = map(str, tokenizer.convert_ids_to_tokens(learned[np.isin(learned, special)].tolist()))
            yield DecodedExample(
                id=id_,
                content=content,
                ids=ids,
                labels=labels,
                completion_start=common_prefix(opening, ids),
                served_prompt=(
                    opening if served is None else _render_served(tokenizer, prompt, served, variables)
                ),
                thinking=thinking,
                switched=thinking or _is_switched(tokenizer, prompt, opening, switch),
                last=last,
                end=end,
                # The template's own marks (channels, tags) are fine, except an early end.
                marks=tuple(mark for mark in marks if mark == end_token or mark in content),
                learned=str(tokenizer.decode(ids[has_loss])),
                before=str(tokenizer.decode(ids[max(0, first - TAIL) : first])),
            )


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of turn, end and padding tokens. Reasoning tags are meant to be learned, special or not."""
    known = tokenizer.get_vocab()
    added = (id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
    turn_marks = (known[mark] for mark in TURN_MARKS if mark in known)  # not special in some tokenizers
    tags = {known.get(tag) for tag in ("<think>", "</think>")}
    return sorted({*added, *turn_marks, *tokenizer.all_special_ids} - tags)


def read_template(served: str | None) -> str | None:
    """The text of a chat template given as vLLM takes it: a path, or the text itself. Raises UserError."""
    if served is None:
        return None
    try:
        return Path(served).read_text("utf-8")
    except (OSError, ValueError) as e:
        if any(c in served for c in "{}\n"):
            return served
        raise UserError(f"student.vllm.chat_template {served}: cannot be read: {e}") from None


def _is_switched(
    tokenizer: PreTrainedTokenizerBase, prompt: Any, opening: list[int], switch: ThinkingSwitch | None
) -> bool:
    """Whether a prompt with thinking off can be told from the same one with thinking on."""
    if variables := arguments(switch, thinking=True):
        return render(tokenizer, prompt, opened=True, variables=variables) != opening
    return NO_THINK in str(tokenizer.decode(opening))


def _render_served(
    tokenizer: PreTrainedTokenizerBase, prompt: Any, template: str, variables: Mapping[str, Any]
) -> list[int] | str:
    try:
        return render(tokenizer, prompt, opened=True, template=template, variables=variables)
    except TemplateError as e:
        return f"the template that the student is served with refuses the prompt: {e}"


def _no_loss(example: DecodedExample) -> str | None:
    if (example.labels == IGNORED).all():
        return "no token has loss: the chat template drops the completion"
    return None


def _prompt_has_loss(example: DecodedExample) -> str | None:
    count = int((example.labels[: example.completion_start] != IGNORED).sum())
    return f"{count} tokens of the prompt have loss: the student would learn to ask" if count else None


def _end_without_loss(example: DecodedExample) -> str | None:
    last = example.last
    if example.ids[last] != example.end or example.labels[last] != example.end:
        return "the last token with loss is not the end of a turn, so the student would not stop"
    return None


def _special_token(example: DecodedExample) -> str | None:
    if not example.marks:
        return None
    return (
        f"the completion contains {example.marks[0]!r}, a special token of the student: it would learn to "
        "end a turn there, or to write the next one; remove such traces with a filter"
    )


def _reasoning_dropped(example: DecodedExample) -> str | None:
    if not example.thinking:
        return None
    reasoning, tag, _ = example.content.partition("</think>")
    kept = tag and tag in example.learned and contains(example.learned, reasoning.replace("<think>", ""))
    if not kept:
        return "the student's chat template drops the reasoning"
    if "<think>" not in example.learned and not example.before.rstrip().endswith("<think>"):
        return "the student's chat template drops <think>, so reasoning and response could not be separated"
    return None


def _reasoning_unasked(example: DecodedExample) -> str | None:
    """An empty <think> block is fine: some templates write one where thinking is off."""
    if not example.thinking and "think>" in _EMPTY_BLOCK.sub("", example.learned):
        return "it has reasoning, though its prompt asks for none"
    return None


def _switch_without_effect(example: DecodedExample) -> str | None:
    if example.switched:
        return None
    return (
        "the student's chat template begins the prompt alike with thinking on and off, so it could not learn "
        'when to think: set select.thinking_switch to one that it reads, or to "user"'
    )


def _response_changed(example: DecodedExample) -> str | None:
    response = example.content.rpartition("</think>")[2]
    return None if contains(example.learned, response) else "the student's chat template changes the response"


def _completion_without_loss(example: DecodedExample) -> str | None:
    """Every token of the completion should have loss, with itself as its label."""
    part = slice(example.completion_start, example.last + 1)
    if (example.labels[part] == example.ids[part]).all():
        return None
    return "a part of the completion has no loss, or another token's label"


def _served_otherwise(example: DecodedExample) -> str | None:
    if isinstance(example.served_prompt, str):
        return example.served_prompt
    if example.served_prompt == example.ids[: example.completion_start].tolist():
        return None
    return (
        "wrong template at evaluation: the server renders the prompt to other tokens than training did; use "
        "a chat template that renders a prompt alike with and without an answer, and no other "
        "student.vllm.chat_template"
    )


def contains(text: str, part: str) -> bool:
    return "".join(part.split()) in "".join(text.split())


ROW_CHECKS: dict[str, Check] = {
    "some token has loss": _no_loss,
    "prompt has no loss": _prompt_has_loss,
    "end of turn has loss": _end_without_loss,
    "no special token before the end": _special_token,
    "reasoning survives the template": _reasoning_dropped,
    "no reasoning where none is asked": _reasoning_unasked,
    "switch changes the prompt": _switch_without_effect,
    "response is unchanged": _response_changed,
    "whole completion has loss": _completion_without_loss,
    "server renders the same prompt": _served_otherwise,
}


def checks(reasoning: str, switch: ThinkingSwitch | None = None) -> dict[str, Check]:
    """The checks for a value of select.reasoning: with "none" there is no reasoning to look for.

    `switch`: how prompts ask to think or not; None where every example is of the same form.
    """
    skipped: set[Check] = {_reasoning_dropped} if reasoning == "none" else set()
    skipped |= set() if switch else {_reasoning_unasked, _switch_without_effect}
    return {name: check for name, check in ROW_CHECKS.items() if check not in skipped}


def faults(example: DecodedExample, checks: Mapping[str, Check]) -> dict[str, str]:
    """What is wrong, by check. An example without any loss has this one fault."""
    if fault := _no_loss(example):
        return {"some token has loss": fault}
    return {name: fault for name, check in checks.items() if (fault := check(example))}


def marked(example: DecodedExample, tokenizer: PreTrainedTokenizerBase) -> str:
    """The example decoded, tokens with loss between >>> and <<<; long parts are shortened in the middle."""
    parts = []
    for has_loss, positions in groupby(range(len(example.ids)), key=lambda n: example.labels[n] != IGNORED):
        part = str(tokenizer.decode(example.ids[list(positions)]))
        if len(part) > SHOWN:
            part = f"{part[: SHOWN // 2]} [... {len(part) - SHOWN} characters ...] {part[-SHOWN // 2 :]}"
        parts.append(f">>>{part}<<<" if has_loss else part)
    return "".join(parts)
