"""Watches the student's own samples while it trains on them.

On-policy distillation can go wrong without its loss telling: answers get longer until all are truncated, or
hold tokens that only a chat template writes (tinker-cookbook; arXiv 2603.25562).
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.model_rows import Step

MAX_TRUNCATED = MAX_SPECIAL = 0.5  # shares of a step's samples
MAX_GROWTH = 2.0  # of the mean length since the first step that was seen


class SampleWatch:
    """Writes the note of the progress line, and says once what is wrong with the samples."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._warned = say, False
        self._first: float | None = None  # mean length

    def note(self, step: Step) -> str:
        notes = [] if step.loss is None else [f"loss {step.loss:.3f}"]
        if step.sample_tokens is not None:
            self._first = self._first or step.sample_tokens
            notes.append(f"samples of {step.sample_tokens:.0f} tokens, {step.truncated or 0:.0%} truncated")
            if not self._warned and (why := self._fault(step)):
                self._warned = True
                self._say(f"train: warning: step {step.step}: {why}")
        return ", ".join(notes)

    def _fault(self, step: Step) -> str:
        if (step.truncated or 0) > MAX_TRUNCATED:
            return (
                f"{step.truncated:.0%} of the student's samples are truncated at train.on_policy.max_tokens: "
                "raise it, or train with sft first, so that the student ends its answers"
            )
        if (step.special or 0) > MAX_SPECIAL:
            return f"{step.special:.0%} of the student's samples hold special tokens within the answer"
        if step.sample_tokens and self._first and step.sample_tokens > MAX_GROWTH * self._first:
            return f"the student's samples grew from {self._first:.0f} to {step.sample_tokens:.0f} tokens"
        return ""
