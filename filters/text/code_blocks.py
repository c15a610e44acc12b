"""Finds the fenced code blocks (``` or ~~~) of a Markdown text, in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A fence may stand inside a list item, even on the line of its marker, but never in the middle of a line.
_FENCE = re.compile(
    r"^([ \t]*)((?:[-*+]|\d{1,3}[.)])[ \t]+)?(`{3,}|~{3,})([^\S\n]*+(\w*+)[^`\n]*+)$", re.MULTILINE
)
_INDENT = re.compile(r"^[ \t]*(?=\S)", re.MULTILINE)


class Block(NamedTuple):
    language: str  # in lower case; "" if none is given
    text: str
    end: int  # offset after its closing fence


def code_blocks(text: str) -> Iterator[Block]:
    """Yields the closed blocks in order. A fence of four characters may enclose one of three."""
    opened = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif _closes(opened, fence):
            indent = opened.start(3) - opened.start()
            inside = _dedented(text[opened.end() + 1 : fence.start()], indent)
            yield Block(opened[5].lower(), inside, fence.end())
            opened = None


def _closes(opened: re.Match[str], fence: re.Match[str]) -> bool:
    """Whether a fence closes the block. Four spaces deeper than the opening fence, it is content."""
    deeper = len(fence[1]) - (opened.start(3) - opened.start())
    return fence[3].startswith(opened[3]) and not fence[2] and not fence[4].strip() and deeper < 4


def _dedented(text: str, indent: int) -> str:
    """Removes the fence's indent from every line, as far as all lines share it."""
    cut = min(indent, min(map(len, _INDENT.findall(text)), default=0))
    if not cut:
        return text
    lines = text.removesuffix("\n").split("\n")
    return "".join((line[cut:] if line.strip() else line) + "\n" for line in lines)
