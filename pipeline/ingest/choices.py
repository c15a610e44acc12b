"""Letters the options of a multiple-choice question, and finds the letter of the reference.

Options may be shuffled by a hash of the question, so that the place of the correct one tells nothing, and
every run has the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"  # those that filters/grade/choice.py reads


class InvalidChoices(ValueError):
    """The options of a row cannot be used; the message has the reason."""


@dataclass(frozen=True)
class Choices:
    texts: tuple[str, ...]
    correct: int | None  # position of the reference; None without one

    def __str__(self) -> str:
        """One option a line, as in "A. blue"."""
        return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.texts, strict=False))

    @property
    def letter(self) -> str | None:
        return None if self.correct is None else LETTERS[self.correct]

    def without_empty(self) -> Choices:
        """The options that have a text."""
        kept = [i for i, text in enumerate(self.texts) if text.strip()]
        return self._in_order(kept)

    def shuffled(self, key: str) -> Choices:
        """The options in an order that the key and their texts decide."""
        digests = [hashlib.sha256(f"{key} {text}".encode()).digest() for text in self.texts]
        return self._in_order(sorted(range(len(digests)), key=digests.__getitem__))

    def _in_order(self, order: Sequence[int]) -> Choices:
        if self.correct is not None and self.correct not in order:
            raise InvalidChoices("the correct choice is empty")
        correct = None if self.correct is None else order.index(self.correct)
        return Choices(tuple(self.texts[i] for i in order), correct)


def choices_of(texts: Sequence[str], correct: int | None, shuffle: str | None) -> Choices:
    """Returns the options, empty ones left out. `shuffle`: the key of their order; None keeps it.

    Raises InvalidChoices if there are too few or too many, or if two equal ones leave the correct one open.
    """
    found = Choices(tuple(text.strip() for text in texts), correct).without_empty()
    if not 2 <= len(found.texts) <= len(LETTERS):
        raise InvalidChoices(f"{len(found.texts)} choices: there must be 2 to {len(LETTERS)}")
    if found.correct is not None and found.texts.count(found.texts[found.correct]) > 1:
        raise InvalidChoices("two choices have the text of the correct one")
    return found if shuffle is None else found.shuffled(shuffle)


def position(reference: str, texts: Sequence[str], kind: str) -> int:
    """Returns which option a reference names by its "letter", its "index" from 0, or its "text"."""
    text = reference.strip()
    if kind == "text":
        found = [i for i, each in enumerate(texts) if each.strip() == text]
        if not found:
            raise InvalidChoices(f"the answer {text[:50]!r} is none of the choices")
        return found[0]
    place, letter = -1, text.strip("().").upper()
    if kind == "letter" and len(letter) == 1:
        place = LETTERS.find(letter)
    elif kind == "index" and (number := text.removesuffix(".0")).isdecimal() and len(number) < 4:
        place = int(number)  # a column with nulls holds 1 as 1.0
    if not 0 <= place < len(texts):
        raise InvalidChoices(f"the answer {text[:50]!r} is no {kind} of its {len(texts)} choices")
    return place
