"""The checking process: math-verify, the scorers of reasoning-gym and IFEval, away from the caller.

They pass a model's text to large libraries that can be slow, use much memory or even execute it: some scorers
call `eval` or SymPy's `parse_expr`. So they run in child processes with bounded memory and without the
caller's secrets, requested through `filters.isolated.pool`, and text that could run as code is refused before
a scorer sees it.

A check function does the slow, trusted part (imports, building a task) in the server and returns a function
for the part that touches the model's text. That part runs in a forked child, which the kernel ends if it is
late. So every check starts from the same memory, and ending one costs the others nothing. The outcome is
"correct", "incorrect", or the reason why it is undecided.
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
from types import ModuleType
from typing import Any

from filters.errors import UserError
from filters.isolated.pool import MISSING, NO_RESOURCES, REPLY_LIMIT, STARTED

MEMORY = 1 << 30  # bytes of address space of a child
GRACE = 0.2  # seconds after the timeout of the caller, when the kernel ends a check
ROUNDING = 1e-5  # relative: 0.333333 is 1/3
IFEVAL = "lm-eval[ifeval]>=0.4.13,<0.5"  # as the extra `ifeval` of pyproject.toml
FULL_SCORE = 0.99  # scorers give partial credit for nearly correct answers

# Scorers that call eval (on a list of rows) or parse_expr (on a formula) with the model's text. A test reads
# the source of the installed package and fails if there is another one.
EVAL_TASKS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
PARSE_EXPR_TASKS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
_FUNCTION = re.compile(r"a?(?:sin|cos|tan)|(?:sin|cos|tan)h|cot|sec|csc|exp|log|ln|sqrt|erf|Abs")
_NOT_FINITE = frozenset({"nan", "-nan", "+nan"})
_PLAIN_NAME = re.compile(r"(?<![\\A-Za-z])(pi|sin|cos|tan|exp|log|ln)(?![A-Za-z])")
FORMULA_LIMIT = 2000  # characters of a text for eval or parse_expr

Check = Callable[[], str]  # returns an outcome


def check_math(reference: str, answer: str) -> Check:
    """Compares with math-verify. Its own timeouts are off, since it reports them as a plain "no"."""
    _warm_up()
    return lambda: _same_mathematics(reference, answer)


@functools.cache
def _warm_up() -> None:
    """Loads what math-verify loads with its first formula; later ones then take 20 ms instead of 300."""
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
    return "correct" if same and not _apart(gold[0], target[0]) else "incorrect"


def _read_mathematics(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    text = _PLAIN_NAME.sub(r"\\\1", " ".join(text.split())).replace("**", "^")
    if not any(mark in text for mark in ("$", r"\(", r"\[", r"\boxed")):
        text = f"${text}$"  # math-verify reads formulas between delimiters, and on one line
    found = parse(text, [LatexExtractionConfig()], parsing_timeout=None)
    return found if any(not isinstance(f, str) for f in found) else []


def check_gym(entry: dict[str, Any], answers: list[str]) -> Check:
    """Scores with the task's own scorer; `answers` are readings of one answer, of which the best counts.

    `entry` is a reasoning-gym entry with the `task` and `settings` that generated it. A low score counts only
    if the scorer accepts the entry's own answer.
    """
    task = entry["task"]
    score = _scorer(task, json.dumps(entry["settings"], sort_keys=True))

    def check() -> str:
        harmless = [answer for answer in answers if is_harmless(task, answer)]
        if not harmless:
            return "refused"
        if any(score(answer=answer, entry=entry) >= FULL_SCORE for answer in harmless):
            return "correct"
        reference = entry["answer"]
        if reference is not None and score(answer=reference, entry=entry) < FULL_SCORE:
            return "scorer_refuses_reference"
        return "incorrect"

    return check


def check_instructions(reference: str, answer: str) -> Check:
    """Applies the strict check of IFEval (Zhou et al. 2023, arXiv 2311.07911): all instructions are followed.

    `reference` is JSON with `instruction_id_list` and `kwargs`. It is unreadable, too, where lm-eval would
    draw an argument at random: one that is missing, or a letter in place of "#".
    """
    ifeval = _ifeval()

    def check() -> str:
        before = random.getstate()
        try:
            followed = _follows(ifeval, json.loads(reference), answer)
        except (AttributeError, LookupError, TypeError, ValueError, re.error):
            return "unreadable_reference"
        if random.getstate() != before:
            return "unreadable_reference"
        return "correct" if followed else "incorrect"

    return check


@functools.cache
def _ifeval() -> Any:
    """Loads lm-eval's IFEval, and what it loads with its first texts."""
    try:
        _leave_out_what_ifeval_does_not_use()
        import langdetect
        import nltk

        nltk.data.find("tokenizers/punkt_tab/english/")  # lm-eval would begin to download it
        from lm_eval.tasks.ifeval import utils
    except ImportError as e:
        install = f"{sys.executable} -m pip install '{IFEVAL}'"
        raise UserError(f"instructions are checked by lm-eval ({e}): {install}") from e
    except LookupError:
        download = f"{sys.executable} -m nltk.downloader punkt_tab"
        raise UserError(
            f"instructions are checked with NLTK's punkt_tab, which is missing: {download}"
        ) from None
    langdetect.DetectorFactory.seed = 0  # it samples; verdicts must repeat
    ids = ["language:response_language", "length_constraints:number_sentences"]
    kwargs = [{"language": "en"}, {"num_sentences": 2, "relation": "at least"}]
    _follows(utils, {"instruction_id_list": ids, "kwargs": kwargs}, "This is English. It loads the rest.")
    return utils


def _leave_out_what_ifeval_does_not_use() -> None:
    """Keeps lm-eval from loading data sets and scorers, and NLTK from SciPy: 7 s and 1.7 GB of addresses."""
    import lm_eval

    tasks = ModuleType("lm_eval.tasks")
    tasks.__path__ = [f"{folder}/tasks" for folder in lm_eval.__path__]
    missing: Any = None  # to Python, a module that cannot be imported
    sys.modules.update({"lm_eval.tasks": tasks, "scipy": missing, "sklearn": missing})


def _follows(ifeval: Any, instructions: dict[str, Any], answer: str) -> bool:
    example = ifeval.InputExample(key=0, prompt="", **instructions)
    return bool(ifeval.test_instruction_following_strict(example, answer).follow_all_instructions)


CHECKS: dict[str, Callable[..., Check]] = {
    "math": check_math,
    "reasoning_gym": check_gym,
    "instructions": check_instructions,
}


def is_harmless(task: str, answer: str) -> bool:
    """Whether this task's scorer may see the text, because it cannot call, import or access anything."""
    if answer.strip().casefold() in _NOT_FINITE:
        return False  # complex_arithmetic gives nan a full score
    if task not in EVAL_TASKS and task not in PARSE_EXPR_TASKS:
        return True
    if len(answer) > FORMULA_LIMIT:
        return False
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except SyntaxError:
        # eval rejects what is not Python; parse_expr rewrites it first and may make it Python
        return task in EVAL_TASKS
    except (ValueError, MemoryError, RecursionError):
        return False
    if task in PARSE_EXPR_TASKS:
        return all(map(_allowed_in_formula, ast.walk(tree)))
    allowed = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.Name, ast.UnaryOp, ast.USub, ast.Load)
    return all(isinstance(node, allowed) for node in ast.walk(tree))


def _allowed_in_formula(node: ast.AST) -> bool:
    """Allows numbers, letters, operators and known functions; no strings, which SymPy would evaluate."""
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
    """Rejects exponents over 99 and towers of powers: they are costly, and no task has such an answer."""
    nodes = list(ast.walk(exponent))
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    small = all(isinstance(value, int | float) and value <= 99 for value in values)
    return small and not any(isinstance(node, ast.Pow) for node in nodes)


@functools.lru_cache(maxsize=8)
def _scorer(task: str, settings: str) -> Callable[..., float]:
    from reasoning_gym import create_dataset

    scorer: Callable[..., float] = create_dataset(task, **json.loads(settings)).score_answer
    return scorer


def _apart(a: Any, b: Any) -> bool:
    """Whether two numbers differ by more than rounding; math-verify treats two tiny numbers as equal."""
    from sympy import Expr, UnevaluatedExpr

    if not all(isinstance(e, Expr) and e.is_number and not e.has(UnevaluatedExpr) for e in (a, b)):
        return False  # no numbers, or percentages, which math-verify reads as unevaluated
    x, y = abs(a.evalf(30)), abs(b.evalf(30))
    return bool(abs(a.evalf(30) - b.evalf(30)) > ROUNDING * max(x, y))


def serve(control: socket.socket) -> None:
    """Serves checks until the parent closes its end of `control` or dies.

    Each byte on `control` carries the descriptor of a connection for one request and its reply.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
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
        check = CHECKS[request["check"]](**request["arguments"])
    except (EOFError, OSError):
        return  # the caller is gone
    except UserError as error:
        connection.send_bytes(MISSING + str(error).encode()[: REPLY_LIMIT - len(MISSING)])
        return
    except Exception as error:  # noqa: BLE001 - sent to the caller, which raises it
        connection.send_bytes(f"{type(error).__name__}: {error}".encode()[:REPLY_LIMIT])
        return
    gc.freeze()  # keeps loaded pages shared with the children, as a collection would copy them
    if os.fork() == 0:
        control.close()
        _run(check, request["seconds"], connection)
        os._exit(0)


def _run(check: Check, seconds: float, connection: Connection) -> None:
    """Runs the part of a check that touches the model's text, in the child."""
    try:
        # By default SIGALRM ends the process, in the kernel, even inside one long C call.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        random.seed(0)  # SymPy tests equality at random points; outcomes must repeat
        connection.send_bytes(STARTED)
        try:
            outcome = check()
        except Exception as error:  # noqa: BLE001 - a library on hostile text may raise anything
            by_system = isinstance(error, OSError) and error.errno
            outcome = NO_RESOURCES if by_system else f"error_{type(error).__name__}"
        connection.send_bytes(outcome.encode())
    except BaseException:  # noqa: BLE001 - the connection is gone; no server code may run in a child
        os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
