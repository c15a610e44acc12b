"""Static analysis of assertions: which names come from the program and which from the standard library.

A program could define `isclose` or `abs` so that every assertion holds. So a builtin, or a name that tests
commonly compare with, comes from the program only if the assertions use no other name that could: then they
test that function (`assert sum(10, 15) == 6`, for common divisors). The assertions alone decide this.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable, Sequence

from filters.sandbox.runner import Assertions

# Names that tests compare with and often rely on the program to import.
_HELPERS = {
    "isclose": "math", "fabs": "math", "Counter": "collections", "OrderedDict": "collections",
    "defaultdict": "collections", "deque": "collections", "Fraction": "fractions", "Decimal": "decimal",
}  # fmt: skip


def read_assertions(sources: Sequence[str], setup: str) -> Assertions:
    """Resolves the names in assertions. Raises SyntaxError, ValueError, RecursionError or MemoryError."""
    used_by_setup, defined = _names(setup)
    used = set[str]()
    for source in sources:
        uses, defines = _names(source)
        used, defined = used | uses, defined | defines
    used -= defined
    modules = _only_as_modules(map(ast.parse, sources)) & used & sys.stdlib_module_names
    used -= modules
    helpers = used & _HELPERS.keys()
    builtin = {name for name in used if hasattr(builtins, name)}
    names = (used - helpers - builtin) or helpers or builtin
    names |= {name for name in used_by_setup - defined - _HELPERS.keys() if not hasattr(builtins, name)}
    origins = [(name, name) for name in sorted(modules)]
    origins += [(name, _HELPERS[name]) for name in sorted(helpers)]
    return Assertions(tuple(sources), setup, tuple(sorted(names)), tuple(origins))


def setup_for_program(assertions: Assertions) -> str:
    """The setup without the parts used by assertions that may reveal expected values.

    These are values, and functions and classes that assert, call the program or compare with a value. The
    rest runs in both processes: imports, classes, functions that build arguments.
    """
    tree = ast.parse(assertions.setup)
    used = set[str]().union(*(_names(source)[0] for source in assertions.sources))
    statements = [(node, *_names(ast.unparse(node))) for node in tree.body]
    more = used
    while more:
        more = {name for _, uses, defines in statements if defines & used for name in uses} - used
        used |= more
    kept, removed = list[ast.stmt](), set[str]()
    for node, uses, defines in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            reveals = False
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            reveals = bool(defines & used) and (bool(uses & removed) or _checks(node, set(assertions.names)))
        else:
            reveals = bool(defines & used or uses & removed) or isinstance(node, ast.Assert)
        if reveals:
            removed |= defines
        else:
            kept.append(node)
    return assertions.setup if len(kept) == len(tree.body) else ast.unparse(ast.Module(kept, []))


def _checks(definition: ast.AST, names: set[str]) -> bool:
    """Whether a definition asserts, calls the program or its arguments, or compares with a value."""
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
    """Whether a literal other than those that any code compares with."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return bool(value) and value not in (True, 1, -1, 2)


def asserts_something(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def without_stubs(setup: str) -> str:
    """The setup without functions that have no body, which stand for those of the program."""
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
    """The global names that a source uses, and those that it defines."""
    tables = [symtable.symtable(source, "<test>", "exec")]
    defined = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
    used = set[str]()
    while tables:
        table = tables.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
        tables += table.get_children()
    return used, defined


def _only_as_modules(trees: Iterable[ast.Module]) -> set[str]:
    """Names of which only attributes are used, such as math in math.sqrt."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    before_dot = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    alone = {node.id for node in nodes if isinstance(node, ast.Name) and node not in before_dot}
    return {node.id for node in before_dot if isinstance(node, ast.Name)} - alone
