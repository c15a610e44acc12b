"""Makes problems with reasoning-gym's generators; a program (`python -m pipeline.ingest.reasoning_gym`).

A process of their own, because some tasks walk sets: only under a fixed PYTHONHASHSEED do the same settings
give the same problems each time. An entry is used only when it can be judged again from the JSON that the
shards hold: the task's scorer must give its own answer 1.0 and an empty phrase less. The process outlives the
one that reads from it by one entry at most, and none takes longer than ENTRY_SECONDS.
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

from pipeline.errors import UserError, nearest

ENTRY_SECONDS = 60.0  # for one problem; with impossible settings some generators look for ever
WRONG_ANSWER = "no answer at all"
TASK_ERRORS = (  # what the code of a task raises when it is not content with its settings or finds no problem
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
    """The entries of a task, in order: each a dict, or a text that says why there is none.

    A dict holds question, answer and metadata as reasoning-gym made them, and task and settings, from which
    the scorer can be built again. Raises UserError when the task or its settings are refused.
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
            return  # cut off: the process died, which its exit code will say
        reply = json.loads(line)
        if "refused" in reply:
            raise UserError(f"reasoning-gym task {task!r}: {reply['refused']}")
        yield reply.get("entry") or reply["failed"]


def _last_line(log: TextIO) -> str:
    log.seek(0)
    return (log.read().strip().splitlines() or ["it said nothing"])[-1][:300]


def main() -> None:
    """The process: the request is its argument, an answer a line goes to standard output."""
    request = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a task prints is no part of the answer
    signal.signal(signal.SIGALRM, _too_long)
    with suppress(BrokenPipeError):  # nobody is listening any more
        for reply in _made(**request):
            out.write(json.dumps(reply) + "\n")
            out.flush()


def _made(task: str, settings: dict[str, Any], size: int, seed: int) -> Iterator[dict[str, Any]]:
    refused = _unknown(task, settings)
    if refused:
        yield {"refused": refused}
        return
    try:
        dataset, scorer = _build(task, {**settings, "size": size, "seed": seed}), _build(task, settings)
    except TASK_ERRORS as e:
        yield {"refused": f"it does not take these settings: {_one_line(e)}"}
        return
    for index in range(size):
        try:
            with _time_limit(ENTRY_SECONDS):
                reply = _reply(dataset, scorer, index, {"task": task, "settings": settings})
        except TASK_ERRORS as e:
            reply = {"failed": _one_line(e)}
        yield reply


def _reply(dataset: Any, scorer: Any, index: int, origin: dict[str, Any]) -> dict[str, Any]:
    entry = dataset[index]
    # Texts stand for what JSON does not know, such as fractions; whether that does, _scorer_problem sees.
    stored = json.loads(json.dumps(entry, default=str))
    why = _scorer_problem(scorer, entry, stored)
    return {"failed": why} if why else {"entry": {**stored, **origin}}


def _build(task: str, settings: dict[str, Any]) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(task, **settings)


def _unknown(task: str, settings: dict[str, Any]) -> str | None:
    """Why the task or one of its settings is not known to reasoning-gym."""
    import reasoning_gym  # noqa: F401  (fills the table of tasks)
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        return "no such task" + nearest(task, DATASETS)
    config = DATASETS[task][1]
    known = {f.name: f for f in fields(config) if f.name not in ("size", "seed")}
    for name, value in settings.items():
        if name in ("size", "seed"):
            return f"{name!r} belongs beside `task`, not into its settings"
        if name not in known:
            return f"unknown setting {name!r}" + nearest(name, known)
        why = _wrong_type(known[name], config, value)
        if why:
            return f"setting {name!r}: {why} (found {value!r})"
    return None


def _wrong_type(field: Field[Any], config: type, value: Any) -> str | None:
    """Why a value does not fit what the task declares; not asked where the task's own default does not."""
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
    """Why the task's scorer is not to be trusted with an entry that was stored as JSON."""
    if _score(scorer, WRONG_ANSWER, stored) >= 1:
        return "its scorer takes any text for right"
    if isinstance(stored["answer"], str) and _score(scorer, stored["answer"], stored) < 1:
        return "its scorer does not take its own answer for right once the entry is stored"
    for value in stored["metadata"].values():  # where the answer is not given, one is often among these
        text = value if isinstance(value, str) else json.dumps(value)
        if _score(scorer, text, stored) != _score(scorer, text, entry):
            return "its scorer judges otherwise once the entry is stored"
    return None


def _score(scorer: Any, text: str, entry: dict[str, Any]) -> float:
    """What the scorer gives a text; -1 when it fails on it, as some do on what is not in their form."""
    try:
        return float(scorer.score_answer(text, entry))
    except TimeoutError:
        raise
    except TASK_ERRORS:
        return -1.0


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the work under way; again each second, for tasks that swallow every error."""
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(signum: int, frame: Any) -> None:
    raise TimeoutError(f"no problem after {ENTRY_SECONDS:.0f} s")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


if __name__ == "__main__":
    main()
