"""Exceptions that end a command with a short message instead of a traceback.

They are defined here, not in `pipeline.errors`, so that `filters.grade` imports nothing of `pipeline`.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can correct. One line says what is wrong, where, and what is right. Exit code 2."""


class Stopped(Exception):
    """The work cannot continue, and the recipe is not at fault. Finished work is kept. Exit code 3."""
