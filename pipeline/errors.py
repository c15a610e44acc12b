"""The one kind of error that is the user's to fix: shown as a single line, exit code 2, no traceback."""


class UserError(Exception):
    """Something the user can put right. The message names what was wrong, where, and what would be right."""
