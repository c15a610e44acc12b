"""Splits the tokens of a text into the steps of its reasoning: sentences, or lines without an end mark.

A token belongs to one step. White space between two steps begins the later one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

# Ends of steps: an end mark before white space, that of a script without spaces, or the end of a line.
_END = re.compile(r"[.!?]+[\"'\u201d\u2019)\]*]*(?=\s)|[\u3002\uff01\uff1f]|\S(?=\n)")
_TAG = re.compile(r"</?think>|<\|[^|<>]*\|>")


class Step(NamedTuple):
    """A range of positions; `said` is False for one of tags, marks and white space alone."""

    start: int
    end: int
    said: bool


def steps(ids: Sequence[int], first: int, tokenizer: PreTrainedTokenizerBase) -> list[Step]:
    """The steps of the tokens from position `first` on, in order and without gaps."""
    texts = [_text(token, tokenizer) for token in ids[first:]]
    begins = list(accumulate(map(len, texts), initial=0))
    whole, starts, token = "".join(texts), [0], 0
    for match in _END.finditer(whole):
        while token < len(texts) and begins[token] < match.end():
            token += 1
        if starts[-1] < token < len(texts):
            starts.append(token)
    limits = [*starts, len(texts)] if texts else []
    return [
        Step(first + start, first + end, bool(_TAG.sub("", whole[begins[start] : begins[end]]).strip()))
        for start, end in pairwise(limits)
    ]


def _text(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of one token. SentencePiece's decoder drops a space at its start, which is put back."""
    text = str(tokenizer.decode([token]))
    piece = tokenizer.convert_ids_to_tokens(token)
    return f" {text}" if str(piece).startswith("▁") and not text[:1].isspace() else text
