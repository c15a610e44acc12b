"""Fenced blocks of a Markdown text: what stands between two lines of ``` or ~~~. Linear in its length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*(\w*)[^\n]*$", re.MULTILINE)


class Block(NamedTuple):
    language: str  # lower case; "" where it is not marked
    text: str


def closed_blocks(text: str) -> Iterator[Block]:
    """The blocks that are closed, in order; one of four marks may hold three."""
    opened = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2]:
            yield Block(opened[2].lower(), text[opened.end() + 1 : fence.start()])
            opened = None
