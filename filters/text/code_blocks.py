"""Fenced blocks of a Markdown text: what stands between two lines of ``` or ~~~. Linear in its length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A fence may stand in a list, deep or right behind the item's mark; what looks so within a line is no fence.
_FENCE = re.compile(r"^([ \t]*)((?:[-*+]|\d{1,3}[.)])[ \t]+)?(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)
_LANGUAGE = re.compile(r"\w*")
_INDENT = re.compile(r"^[ \t]*(?=\S)", re.MULTILINE)


class Block(NamedTuple):
    language: str  # lower case; "" where it is not marked
    text: str


def closed_blocks(text: str) -> Iterator[Block]:
    """The blocks that are closed, in order; one of four marks may hold three, and one deeper inside."""
    return (block for block, _ in placed_blocks(text))


def placed_blocks(text: str) -> Iterator[tuple[Block, int]]:
    """The closed blocks, each with where the text goes on behind it."""
    opened = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif _closes(opened, fence):
            indent = opened.start(3) - opened.start()
            inside = _dedented(text[opened.end() + 1 : fence.start()], indent)
            yield Block(_language(opened[4]), inside), fence.end()
            opened = None


def _closes(opened: re.Match[str], fence: re.Match[str]) -> bool:
    """Four blanks deeper than the fence that opened it, it belongs to what the block holds."""
    deeper = len(fence[1]) - (opened.start(3) - opened.start())
    return fence[3].startswith(opened[3]) and not fence[2] and not fence[4].strip() and deeper < 4


def _language(words: str) -> str:
    found = _LANGUAGE.match(words.strip())
    return found[0].lower() if found else ""


def _dedented(text: str, most: int) -> str:
    """Every line less the fence's own indent, as far as all of them have it."""
    shared = min((len(indent) for indent in _INDENT.findall(text)), default=0) if most else 0
    cut = min(most, shared)
    return "".join(line[cut:] if line.strip() else line for line in _lines(text)) if cut else text


def _lines(text: str) -> Iterator[str]:
    return (line + "\n" for line in text.removesuffix("\n").split("\n"))
