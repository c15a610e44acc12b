"""Finds text that runs past its turn: a chat template's mark, or an imagined turn of the user.

A student trained on such text learns to talk to itself. Code does not count, since it may mention both. All
functions take linear time.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from filters.text.turn_marks import TURN_MARK

_CODE = re.compile(r"```[^`]*+(?:`{1,2}(?!`)[^`]*+)*+```|`[^`\n]{1,200}`")
_STRIKE_THROUGH = re.compile(r"<s>|</s>")  # HTML, if the text contains <s>
# A role at the start of a line: "Human: ...", "**User:** ...", "### Instruction: ...".
_LABEL = re.compile(
    r"^[ \t]*(?:\*\*|#{2,4}[ \t]*|\[|<)?(?P<role>Human|User|Assistant|AI|Instruction|Response)"
    r"[\]>]?(?:\*\*)?[ \t]*:",
    re.MULTILINE,
)
_USER = frozenset(("Human", "User", "Instruction"))


def turn_mark(text: str) -> str | None:
    """Returns the first mark of a chat template with the text around it, None if there is no mark."""
    if "<" not in text and "[" not in text and "]~b]" not in text:
        return None
    text = _CODE.sub(" ", text)
    if "<s>" in text:
        text = _STRIKE_THROUGH.sub(" ", text)
    mark = TURN_MARK.search(text)
    return None if mark is None else text[max(mark.start() - 60, 0) : mark.end() + 60]


def next_turn(text: str, question: str, *, pair: bool) -> str | None:
    """Returns the text from an imagined user turn on, None if there is no such turn.

    A label that also occurs in the question does not count. With `pair`, a user turn counts only if an answer
    to it follows, because reasoning may quote the user.
    """
    if ":" not in text:
        return None
    without_code = _CODE.sub(lambda code: " " * len(code[0]), text)  # keeps offsets
    labels = [label for label in _LABEL.finditer(without_code) if f"{label['role']}:" not in question]
    for label, following in zip_longest(labels, labels[1:]):
        answered = following is not None and following["role"] not in _USER
        if label["role"] in _USER and (answered if pair else bool(text[: label.start()].strip())):
            return text[label.start() :]
    return None
