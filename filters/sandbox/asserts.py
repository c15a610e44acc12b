"""What assertions use: names of the program that they are about, and of the standard library.

A program could define `isclose` or `abs` so that any assertion holds. So a name of Python's, or of what tests
commonly compare with, is the program's only if the assertions name nothing else that could be: then that
function is what they are about (`assert sum(10, 15) == 6`, of common divisors). The assertions alone decide
this. Leaves out the running (`filters.sandbox.runner`) and the verdict (`filters.sandbox.python_tests`).
"""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable, Sequence

from filters.sandbox.runner import Assertions

# What tests compare with, and often rely on the program to import.
_COMPARING = {
    "isclose": "math", "fabs": "math", "Counter": "collections", "OrderedDict": "collections",
    "defaultdict": "collections", "deque": "collections", "Fraction": "fractions", "Decimal": "decimal",
}  # fmt: skip


def read_assertions(sources: Sequence[str], setup: str) -> Assertions:
    """The assertions with what they use. Raises SyntaxError, ValueError, RecursionError or MemoryError."""
    of_setup, given = _names(setup)
    used = set[str]()
    for source in sources:
        also, here = _names(source)
        used, given = used | also, given | here
    used -= given
    modules = _only_as_modules(map(ast.parse, sources)) & used & sys.stdlib_module_names
    used -= modules
    comparing = {name for name in used if name in _COMPARING}
    of_python = {name for name in used if hasattr(builtins, name)}
    names = (used - comparing - of_python) or comparing or of_python
    names |= {name for name in of_setup - given if name not in _COMPARING and not hasattr(builtins, name)}
    known = [(name, name) for name in sorted(modules)]
    known += [(name, _COMPARING[name]) for name in sorted(comparing)]
    return Assertions(tuple(sources), setup, tuple(sorted(names)), tuple(known))


def for_program(assertions: Assertions) -> str:
    """The setup less what the assertions use of it that can hold what is expected.

    These are values, and functions and classes that assert, call the program or compare with a value. The
    rest is in both processes: imports, classes, what builds arguments.
    """
    tree = ast.parse(assertions.setup)
    used = set[str]().union(*(_names(source)[0] for source in assertions.sources))
    found = [(node, *_names(ast.unparse(node))) for node in tree.body]
    more = used
    while more:
        more = {name for _, uses, gives in found if gives & used for name in uses} - used
        used |= more
    kept, left_out = list[ast.stmt](), set[str]()
    for node, uses, gives in found:
        definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if isinstance(node, ast.Import | ast.ImportFrom):
            tells = False
        elif definition:
            tells = bool(gives & used) and (bool(uses & left_out) or _judges(node, set(assertions.names)))
        else:
            tells = bool(gives & used or uses & left_out) or isinstance(node, ast.Assert)
        if tells:
            left_out |= gives
        else:
            kept.append(node)
    return assertions.setup if len(kept) == len(tree.body) else ast.unparse(ast.Module(kept, []))


def _judges(definition: ast.AST, names: set[str]) -> bool:
    nodes = list(ast.walk(definition))
    callers = names | {node.arg for node in nodes if isinstance(node, ast.arg)}
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Compare) and any(map(_is_value, (node.left, *node.comparators))))
        or (isinstance(node, ast.Call) and _called(node) in callers)
        or (isinstance(node, ast.Call) and _called(node).startswith("assert"))
        for node in nodes
    )


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _is_value(node: ast.expr) -> bool:
    """Whether it is written out, and more than what programs compare with everywhere."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return bool(value) and value not in (True, 1, -1, 2)


def asserts_something(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def without_stubs(setup: str) -> str:
    """The setup less functions without a body, which stand for what the program is to define."""
    tree = ast.parse(setup)
    kept = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and _is_stub(node))]
    return setup if len(kept) == len(tree.body) else ast.unparse(ast.Module(kept, []))


def _is_stub(function: ast.FunctionDef) -> bool:
    return all(
        isinstance(node, ast.Pass)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node))
        for node in function.body
    )


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a source uses, but for those local to its functions, and those that it gives a value."""
    waiting = [symtable.symtable(source, "<test>", "exec")]
    given = {s.get_name() for s in waiting[0].get_symbols() if s.is_assigned() or s.is_imported()}
    used = set[str]()
    while waiting:
        table = waiting.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
        waiting += table.get_children()
    return used, given


def _only_as_modules(trees: Iterable[ast.Module]) -> set[str]:
    """Names of which nothing but attributes is used, as of math in math.sqrt."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    before_dot = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    alone = {node.id for node in nodes if isinstance(node, ast.Name) and node not in before_dot}
    return {node.id for node in before_dot if isinstance(node, ast.Name)} - alone
