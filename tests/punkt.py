"""NLTK's data punkt_tab, as the checks of instructions need it: without a network, and without statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filters.isolated import pool

_FILES = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")


@contextmanager
def punkt_in(folder: Path) -> Iterator[None]:
    """Writes the data in its published layout; sentences then end at every full stop."""
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in _FILES:
        (english / name).touch()
    with checking_with(NLTK_DATA=str(folder)):
        yield


@contextmanager
def checking_with(**variables: str) -> Iterator[None]:
    """The checking process starts with these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        pool._checker.stop()
        yield
    pool._checker.stop()


@contextmanager
def without_lm_eval(folder: Path) -> Iterator[None]:
    (folder / "lm_eval.py").write_text("raise ModuleNotFoundError(\"No module named 'lm_eval'\")")
    with checking_with(PYTHONPATH=str(folder)):
        yield
