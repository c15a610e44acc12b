"""Converts instructions that a program can check, as IFEval writes them, to the reference of a problem."""

from __future__ import annotations

import json
from typing import Any

from filters.grade.grader import grade_answer
from pipeline.ingest import code_tests

PATIENCE = 60.0  # seconds for a check that takes milliseconds


class InvalidInstructions(ValueError):
    """Values that are no instructions that can be checked; the message has the reason."""


def as_reference(ids: Any, arguments: Any) -> str:
    """Returns the ids of instructions and their arguments as JSON. Both may be JSON text already.

    Raises InvalidInstructions where lm-eval cannot check them, and UserError where it is not installed.
    """
    try:
        names, given = (json.loads(code_tests.as_json(_decoded(value))) for value in (ids, arguments))
    except (ValueError, RecursionError) as e:
        raise InvalidInstructions(f"the instructions cannot be read: {str(e)[:200]}") from None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise InvalidInstructions("the instructions are not a list of ids")
    if not isinstance(given, list) or [dict] * len(names) != [type(each) for each in given]:
        raise InvalidInstructions("the arguments are not a list of one object for each instruction")
    kwargs = [{key: value for key, value in each.items() if value is not None} for each in given]
    reference = json.dumps({"instruction_id_list": names, "kwargs": kwargs}, ensure_ascii=False)
    if (graded := grade_answer(reference, "-", "instructions", timeout=PATIENCE)).outcome == "undecided":
        why = f"lm-eval lacks one of them, or their arguments do not fit ({graded.reason})"
        raise InvalidInstructions(f"the instructions cannot be checked: {', '.join(names)[:200]}: {why}")
    return reference


def require() -> None:
    """Raises UserError, with what to install, where instructions cannot be checked."""
    as_reference(["punctuation:no_comma"], [{}])


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
