"""Runs a reasoning-gym generator in a subprocess with PYTHONHASHSEED=0 (some tasks iterate over sets).

Skips an entry unless its scorer, after a JSON round trip, gives the reference 1.0 and a wrong answer less.
The subprocess (`python -m pipeline.ingest.reasoning_gym`) outlives its reader by at most one entry, which
takes at most ENTRY_SECONDS.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields
from typing import Any, TextIO

from pipeline.errors import UserError, nearest, one_line

ENTRY_SECONDS = 60.0  # with impossible settings some generators search forever
WRONG_ANSWER = "no answer at all"
TASK_ERRORS = (  # raised by the code of tasks for bad settings, or when no problem is found
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def entries(task: str, settings: dict[str, Any], size: int, seed: int) -> Iterator[dict[str, Any] | str]:
    """Yields the entries of a task in order: a dict, or the reason why an entry was skipped.

    A dict holds question, answer and metadata as reasoning-gym made them, and task and settings, from which
    the scorer can be rebuilt. Raises UserError if the task or its settings are refused.
    """
    request = {"task": task, "settings": settings, "size": size, "seed": seed}
    try:
        text = json.dumps(request, allow_nan=False)
    except (TypeError, ValueError):
        raise UserError(
            f"reasoning-gym task {task!r}: settings are numbers, texts, booleans and lists"
        ) from None
    command = [sys.executable, "-P", "-W", "ignore", "-m", "pipeline.ingest.reasoning_gym", text]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        ) as child,
    ):
        try:
            yield from _replies(child, task)
            if child.wait() != 0:
                raise UserError(f"reasoning-gym task {task!r}: its process died: {_last_line(log)}")
        finally:
            child.kill()


def _replies(child: subprocess.Popen[str], task: str) -> Iterator[dict[str, Any] | str]:
    assert child.stdout is not None
    for line in child.stdout:
        if not line.endswith("\n"):
            return  # truncated: the process died, as its exit code will show
        reply = json.loads(line)
        if "refused" in reply:
            raise UserError(f"reasoning-gym task {task!r}: {reply['refused']}")
        yield reply.get("entry") or reply["failed"]


def _last_line(log: TextIO) -> str:
    log.seek(0)
    return (log.read().strip().splitlines() or ["no output"])[-1][:300]


def main() -> None:
    """Runs in the subprocess: reads the request from its argument, writes one reply per line."""
    request = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that a task prints is not a reply
    signal.signal(signal.SIGALRM, _raise_timeout)
    with suppress(BrokenPipeError):  # the reader is gone
        for reply in _generate(**request):
            out.write(json.dumps(reply) + "\n")
            out.flush()


def _generate(task: str, settings: dict[str, Any], size: int, seed: int) -> Iterator[dict[str, Any]]:
    from reasoning_gym import create_dataset

    if problem := _settings_problem(task, settings):
        yield {"refused": problem}
        return
    try:
        dataset = create_dataset(task, **settings, size=size, seed=seed)
        scorer = create_dataset(task, **settings)
    except TASK_ERRORS as e:
        yield {"refused": f"it does not accept these settings: {one_line(e, 200)}"}
        return
    for index in range(size):
        try:
            with _time_limit(ENTRY_SECONDS):
                entry = dataset[index]
                # Values that JSON lacks, such as fractions, become texts; the scorer has to accept that.
                stored = json.loads(json.dumps(entry, default=str))
                problem = _scorer_problem(scorer, entry, stored)
        except TASK_ERRORS as e:
            problem = one_line(e, 200)
        yield {"failed": problem} if problem else {"entry": {**stored, "task": task, "settings": settings}}


def _settings_problem(task: str, settings: dict[str, Any]) -> str | None:
    """Returns why the task or one of its settings does not exist or has the wrong type."""
    import reasoning_gym  # noqa: F401  (fills the table of tasks)
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        return "no such task" + nearest(task, DATASETS)
    config = DATASETS[task][1]
    known = {f.name: f for f in fields(config) if f.name not in ("size", "seed")}
    for name, value in settings.items():
        if name in ("size", "seed"):
            return f"{name!r} belongs next to `task`, not into its settings"
        if name not in known:
            return f"unknown setting {name!r}" + nearest(name, known)
        why = _wrong_type(known[name], config, value)
        if why:
            return f"setting {name!r}: {why} (found {value!r})"
    return None


def _wrong_type(field: Field[Any], config: type, value: Any) -> str | None:
    """Returns why a value does not fit the declared type; None if the task's own default does not either."""
    from typing import get_type_hints

    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(get_type_hints(config)[field.name])
    try:
        if field.default is not MISSING:
            adapter.validate_python(field.default)
    except ValidationError:
        return None
    try:
        adapter.validate_python(value)
    except ValidationError as e:
        return e.errors()[0]["msg"]
    return None


def _scorer_problem(scorer: Any, entry: dict[str, Any], stored: dict[str, Any]) -> str | None:
    """Returns why the scorer cannot grade the entry once it was stored as JSON; None if it can."""
    if _score(scorer, WRONG_ANSWER, stored) >= 1:
        return "its scorer accepts any text"
    if isinstance(stored["answer"], str) and _score(scorer, stored["answer"], stored) < 1:
        return "its scorer does not accept its own answer once the entry is stored"
    for value in stored["metadata"].values():  # an entry without an answer often has one here
        text = value if isinstance(value, str) else json.dumps(value)
        if _score(scorer, text, stored) != _score(scorer, text, entry):
            return "its scorer gives other scores once the entry is stored"
    return None


def _score(scorer: Any, text: str, entry: dict[str, Any]) -> float:
    """Returns the score of a text; -1 if the scorer fails, as some do on texts of another form."""
    try:
        return float(scorer.score_answer(text, entry))
    except TimeoutError:
        raise
    except TASK_ERRORS:
        return -1.0


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block, and again each second for tasks that swallow every error."""
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_timeout(signum: int, frame: Any) -> None:
    raise TimeoutError(f"no problem after {ENTRY_SECONDS:.0f} s")


if __name__ == "__main__":
    main()
