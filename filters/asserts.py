"""What assertions use: names of the program that they are about, and of the standard library.

A program could define `isclose` or `abs` so that any assertion holds. So a name of Python's, or of what tests
commonly compare with, is the program's only if the assertions name nothing else that could be: then that
function is what they are about (`assert sum(10, 15) == 6`, of common divisors). The assertions alone decide
this. Leaves out the running (`filters.sandbox`) and the verdict (`filters.code`).
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Sequence

from filters.sandbox import Assertions

# What tests compare with, and often rely on the program to import.
_COMPARING = {
    "isclose": "math", "fabs": "math", "Counter": "collections", "OrderedDict": "collections",
    "defaultdict": "collections", "deque": "collections", "Fraction": "fractions", "Decimal": "decimal",
}  # fmt: skip


def read_assertions(sources: Sequence[str], setup: str) -> Assertions:
    """The assertions with what they use. Raises SyntaxError, ValueError, RecursionError or MemoryError."""
    trees = [ast.parse(source) for source in sources]
    used = _used(trees, ast.parse(setup))
    modules = _only_as_modules(trees)
    modules = {name for name in used & modules if name in sys.stdlib_module_names}
    used -= modules
    comparing = {name for name in used if name in _COMPARING}
    of_python = {name for name in used if hasattr(builtins, name)}
    names = (used - comparing - of_python) or comparing or of_python
    known = [(name, name) for name in sorted(modules)]
    known += [(name, _COMPARING[name]) for name in sorted(comparing)]
    return Assertions(tuple(sources), tuple(sorted(names)), tuple(known))


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


def _used(trees: Iterable[ast.Module], setup: ast.Module) -> set[str]:
    """The names that assertions use and neither they nor their setup give a value."""
    used, given = set[str](), set[str]()
    for tree in (*trees, setup):
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                if not isinstance(node.ctx, ast.Load):
                    given.add(node.id)
                elif tree is not setup:
                    used.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                given.add(node.name)
            elif isinstance(node, ast.arg):
                given.add(node.arg)
            elif isinstance(node, ast.alias):
                given.add(node.asname or node.name.partition(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                given.add(node.name)
    return used - given


def _only_as_modules(trees: Iterable[ast.Module]) -> set[str]:
    """Names of which nothing but attributes is used, as of math in math.sqrt."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    before_dot = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    alone = {node.id for node in nodes if isinstance(node, ast.Name) and node not in before_dot}
    return {node.id for node in before_dot if isinstance(node, ast.Name)} - alone
