"""Text that goes on past its turn: a mark between turns, or a turn of somebody else that the model imagined.

A student that is trained on such text learns to talk to itself. Code, in which both may be spoken of, does
not count. Linear in the text's length.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from filters.text.turn_marks import TURN_MARK

_CODE = re.compile(r"```[^`]*+(?:`{1,2}(?!`)[^`]*+)*+```|`[^`\n]{1,200}`")
_STRUCK = re.compile(r"<s>|</s>")  # strike-through in HTML, where the first opens
# Whose turn it is, at the start of a line: "Human: ...", "**User:** ...", "### Instruction: ...".
_LABEL = re.compile(
    r"^[ \t]*(?:\*\*|#{2,4}[ \t]*|\[|<)?(?P<who>Human|User|Assistant|AI|Instruction|Response)"
    r"[\]>]?(?:\*\*)?[ \t]*:",
    re.MULTILINE,
)
_ASKS = frozenset(("Human", "User", "Instruction"))


def turn_mark(text: str) -> str | None:
    """The first mark of a chat template in a text, with what stands around it; None where there is none."""
    if "<" not in text and "[" not in text and "]~b]" not in text:
        return None
    text = _CODE.sub(" ", text)
    if "<s>" in text:
        text = _STRUCK.sub(" ", text)
    mark = TURN_MARK.search(text)
    return None if mark is None else text[max(mark.start() - 60, 0) : mark.end() + 60]


def next_turn(text: str, question: str, *, pair: bool) -> str | None:
    """Where a text goes on to a turn of its user, from there on; None where it does not.

    pair: only where an answer to that turn follows, as a thought may tell what the user said. A label that
    the question has as well is its own.
    """
    if ":" not in text:
        return None
    labels = [
        label for label in _LABEL.finditer(_CODE.sub(_blank, text)) if f"{label['who']}:" not in question
    ]
    for label, behind in zip_longest(labels, labels[1:]):
        answered = behind is not None and behind["who"] not in _ASKS
        if label["who"] in _ASKS and (answered if pair else bool(text[: label.start()].strip())):
            return text[label.start() :]
    return None


def _blank(code: re.Match[str]) -> str:
    """As long as the code, so that places stay where they are."""
    return " " * len(code[0])
