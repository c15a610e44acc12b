"""The two kinds of ending that are not bugs: each shown as a short message, without a traceback."""


class UserError(Exception):
    """Something the user can put right, in one line: what was wrong, where, what is right. Exit code 2."""


class Stopped(Exception):
    """The work cannot go on, through no mistake in the recipe. What was done is kept; exit code 3."""
