"""What runs in the checking process: math-verify, and reasoning-gym's own scorers.

Both hand a model's text to large libraries that can be slow, eat memory or, in a few scorers, run Python
(`eval`, SymPy's `parse_expr`). So they run here, in processes of their own with bounded memory and without
the caller's secrets, started by `filters.isolated.pool`; and text that could run as code is refused before a
scorer sees it.

A check does the slow part that can be trusted (imports, building a task) and returns the part that touches
the model's text. The server does the first and forks a child for the second, which the kernel ends when it
is late: so each check starts from the same memory, and ending one costs the others nothing. It answers
"correct", "wrong", or why it cannot tell.
"""

from __future__ import annotations

import ast
import functools
import gc
import json
import os
import random
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from filters.isolated.pool import NO_ROOM, REPLY_LIMIT, STARTED

MEMORY = 1 << 30  # bytes of address space of a child
GRACE = 0.2  # seconds after which the kernel ends a check that its asker no longer waits for
ROUNDING = 1e-5  # relative: 0.333333 is 1/3
FULL_SCORE = 0.99  # scorers give parts of a point for answers that are nearly right

# The scorers that hand the model's text to eval (of a list of rows) or to parse_expr (of a formula).
# A test reads the installed package's source and fails when another one does.
EVAL_TASKS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
PARSE_EXPR_TASKS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
_FUNCTION = re.compile(r"a?(?:sin|cos|tan)|(?:sin|cos|tan)h|cot|sec|csc|exp|log|ln|sqrt|erf|Abs")
_NOT_FINITE = frozenset({"nan", "-nan", "+nan"})
FORMULA_LIMIT = 2000  # characters of a text that eval or parse_expr may see

Judge = Callable[[], str]


def check_math(reference: str, answer: str) -> Judge:
    """math-verify, with its own time-outs off: they come back as a plain "no"."""
    _warm_up()
    return lambda: _same_mathematics(reference, answer)


@functools.cache
def _warm_up() -> None:
    """Load what math-verify loads with its first formula: later ones take 20 ms, not 300."""
    _same_mathematics(
        r"\frac{x+1}{2} + \int_0^1 t dt", r"\frac{1}{2} (1+x) + \lim_{t \to 0} \sin t + \frac12"
    )


def _same_mathematics(reference: str, answer: str) -> str:
    from math_verify import verify

    gold = _read_mathematics(reference)
    if not gold:
        return "unreadable_reference"
    target = _read_mathematics(answer)
    if not target:
        return "unreadable_answer"
    same = verify(gold, target, timeout_seconds=None, raise_on_error=True)
    return "correct" if same and not _apart(gold[0], target[0]) else "wrong"


def _read_mathematics(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    found = parse(_as_latex(text), [LatexExtractionConfig()], parsing_timeout=None)
    return found if any(not isinstance(f, str) for f in found) else []


def check_gym(entry: dict[str, Any], answers: list[str]) -> Judge:
    """The task's own scorer; `answers` are readings of one answer, and the best one counts.

    `entry` is a reasoning-gym entry with the `task` and the `settings` that it was made with. A scorer's no
    is believed only if it says yes to the entry's own answer.
    """
    task = entry["task"]
    score = _scorer(task, json.dumps(entry["settings"], sort_keys=True))

    def judge() -> str:
        readable = [answer for answer in answers if harmless(task, answer)]
        if not readable:
            return "refused"
        if any(score(answer=answer, entry=entry) >= FULL_SCORE for answer in readable):
            return "correct"
        own = entry["answer"]
        if own is not None and score(answer=own, entry=entry) < FULL_SCORE:
            return "scorer_refuses_reference"
        return "wrong"

    return judge


CHECKS: dict[str, Callable[..., Judge]] = {"math": check_math, "reasoning_gym": check_gym}


def harmless(task: str, answer: str) -> bool:
    """Whether this task's scorer can be given the text: it cannot call, import or reach into anything."""
    if answer.strip().casefold() in _NOT_FINITE:
        return False  # complex_arithmetic finds nan as near to the answer as can be
    if task not in EVAL_TASKS and task not in PARSE_EXPR_TASKS:
        return True
    if len(answer) > FORMULA_LIMIT:
        return False
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except SyntaxError:
        # eval refuses what is not Python; parse_expr rewrites it first, and may make Python of it
        return task in EVAL_TASKS
    except (ValueError, MemoryError, RecursionError):
        return False
    return all(map(_plain_formula if task in PARSE_EXPR_TASKS else _plain_list, ast.walk(tree)))


def _plain_list(node: ast.AST) -> bool:
    allowed = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.Name, ast.UnaryOp, ast.USub, ast.Load)
    return isinstance(node, allowed)


def _plain_formula(node: ast.AST) -> bool:
    """Numbers, letters, operators, calls of known functions; no strings, which SymPy would evaluate."""
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.Name):
        letter = len(node.id) == 1 and node.id.isalpha()
        return letter or node.id == "pi" or bool(_FUNCTION.fullmatch(node.id))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and bool(_FUNCTION.fullmatch(node.func.id))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _small_power(node.right)
    operators = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
    return isinstance(node, (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Load, *operators))


def _small_power(exponent: ast.AST) -> bool:
    """Powers of more than two digits, and towers of powers, are costly and no task's answer."""
    for node in ast.walk(exponent):
        if isinstance(node, ast.Pow):
            return False
        if isinstance(node, ast.Constant) and not (isinstance(node.value, int | float) and node.value <= 99):
            return False
    return True


@functools.lru_cache(maxsize=8)
def _scorer(task: str, settings: str) -> Callable[..., float]:
    from reasoning_gym import create_dataset

    scorer: Callable[..., float] = create_dataset(task, **json.loads(settings)).score_answer
    return scorer


def _apart(a: Any, b: Any) -> bool:
    """Whether two numbers differ by more than rounding: math-verify takes two tiny ones for the same."""
    from sympy import Expr, UnevaluatedExpr

    if not all(isinstance(e, Expr) and e.is_number and not e.has(UnevaluatedExpr) for e in (a, b)):
        return False  # not numbers; or percentages, which are written so
    x, y = abs(a.evalf(30)), abs(b.evalf(30))
    return bool(abs(a.evalf(30) - b.evalf(30)) > ROUNDING * max(x, y))


_PLAIN_NAME = re.compile(r"(?<![\\A-Za-z])(pi|sin|cos|tan|exp|log|ln)(?![A-Za-z])")


def _as_latex(text: str) -> str:
    """math-verify reads LaTeX only between delimiters; on one line, or `$` does not delimit."""
    text = _PLAIN_NAME.sub(r"\\\1", " ".join(text.split())).replace("**", "^")
    return text if any(mark in text for mark in ("$", r"\(", r"\[", r"\boxed")) else f"${text}$"


def serve(control: socket.socket) -> None:
    """Answer checks until the parent closes its end, which it also does by dying.

    Each byte on `control` brings the descriptor of a connection, for one request and its reply.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a child: the kernel buries it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not byte:
            return
        for descriptor in descriptors:
            with Connection(descriptor) as connection:
                _serve_one(connection, control)


def _serve_one(connection: Connection, control: socket.socket) -> None:
    try:
        request = json.loads(connection.recv_bytes())
        judge = CHECKS[request["check"]](**request["arguments"])
    except (EOFError, OSError):
        return  # the asker is gone
    except Exception as error:  # noqa: BLE001 - said to the parent, which raises it
        connection.send_bytes(f"{type(error).__name__}: {error}".encode()[:REPLY_LIMIT])
        return
    gc.freeze()  # what is loaded is shared with the children, and no collection may copy it
    if os.fork() == 0:
        control.close()
        _judge(judge, request["seconds"], connection)
        os._exit(0)


def _judge(judge: Judge, seconds: float, connection: Connection) -> None:
    """In the child: the part that touches a model's text."""
    try:
        # The signal's default is to end the process, in the kernel, even inside one long C call.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        random.seed(0)  # SymPy guesses with it: the same question must get the same answer
        connection.send_bytes(STARTED)
        try:
            outcome = judge()
        except Exception as error:  # noqa: BLE001 - a library met hostile text: whatever it raises is an answer
            outcome = (
                NO_ROOM if isinstance(error, OSError) and error.errno else f"error_{type(error).__name__}"
            )
        connection.send_bytes(outcome.encode())
    except BaseException:  # noqa: BLE001 - the connection is gone; nothing of the server's may run in a child
        os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
