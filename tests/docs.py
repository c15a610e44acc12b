"""The generated pages of docs/: the command line's help, the settings of a recipe, the filters.

`python -m tests.docs --write` writes them anew; a test compares them with what the code says now.
"""

from __future__ import annotations

import ast
import inspect
import io
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from filters import FILTERS
from pipeline.cli.main import cli
from pipeline.filter.apply import VERSIONS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MADE = "<!-- Made by `python -m tests.docs --write`; change the code it is made from. -->"
FILES = ("__init__", "sources", "endpoints", "traces", "training", "evaluation")  # of pipeline/config
TABLES = {  # class -> how its table is written in a recipe
    "Recipe": "the top of the file",
    "Ingest": "[ingest]",
    "FileSource": '[[ingest.sources]] with kind = "file"',
    "DatasetSource": '[[ingest.sources]] with kind = "dataset"',
    "GymSource": '[[ingest.sources]] with kind = "reasoning_gym"',
    "Endpoint": "[teacher], [student] and [judge]",
    "Teacher": "[teacher]",
    "Student": "[student]",
    "Judge": "[judge]",
    "Generate": "[generate]",
    "Filter": "[filter]",
    "Majority": "[filter.majority]",
    "Difficulty": "[filter.difficulty]",
    "Contamination": "[filter.contamination]",
    "Duplicates": "[filter.duplicates]",
    "Select": "[select]",
    "Train": "[train]",
    "Lora": "[train.lora]",
    "TopkKD": "[train.topk_kd]",
    "LogitKD": "[train.logit_kd]",
    "KDTeacher": "[[train.logit_kd.teachers]]",
    "OnPolicy": "[train.on_policy]",
    "Evaluate": "[evaluate]",
    "EvaluationSet": "[[evaluate.sets]]",
}


def command_line() -> str:
    """--help of every command."""
    settings = cli.context_settings | {"terminal_width": 100}
    root = click.Context(cli, info_name="retort", **settings)
    parts = ["# The command line", MADE, "Without installing anything, `./run.sh WORDS` is `retort WORDS`."]
    parts.append(_code(cli.get_help(root)))
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, root, info_name=name, **settings)
        parts += [f"## retort {name}", _code(command.get_help(context))]
    return "\n\n".join(parts) + "\n"


def recipe() -> str:
    """A table of settings for each table of a recipe, as the comments beside them say."""
    parts = ["# Recipes", MADE]
    parts.append(
        "A recipe is TOML. What is needed has no default; any setting can be given as `key=value` on the "
        "command line, e.g. `generate.samples=2`, and of an array by position: "
        "`ingest.sources.0.limit=100`. The recipes in [`pipeline/recipes/`](../pipeline/recipes) are "
        "explained line by line."
    )
    for name in FILES:
        text = (ROOT / "pipeline" / "config" / f"{name}.py").read_text()
        comments = _comments(text)
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and (rows := list(_settings(node, comments))):
                parts += [f"## {TABLES[node.name]}"]
                parts += [said] if (said := ast.get_docstring(node)) else []
                parts += [
                    "\n".join(["| setting | type | default | meaning |", "| --- | --- | --- | --- |", *rows])
                ]
    return "\n\n".join(parts) + "\n"


def filters() -> str:
    """The rules that see one trace, with their parameters, and those that look across traces."""
    parts = ["# Filters", MADE]
    parts.append(
        "`finished`, `single_reasoning`, `final_answer` and `correct` judge every trace, and with them the "
        "rules that a recipe adds as `NAME = true` under `[filter.rules]`; kept = all pass. `NAME = false` "
        "switches one off, parameters are set as `[filter.rules.NAME]`. Under `select.reasoning=none` no "
        "rule asks for a thought. A version is raised whenever a trace might be judged otherwise than before."
    )
    rows = ["| rule | version | what | parameters |", "| --- | --- | --- | --- |"]
    for name, (function, version) in FILTERS.items():
        what = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        rows.append(f"| `{name}` | {version} | {_cell(what)} | {_cell(_parameters(function))} |")
    parts.append("\n".join(rows))
    parts.append(
        "Rules that look across traces are tables of their own under `[filter]`: [recipe.md](recipe.md)."
    )
    rows = ["| rule | version |", "| --- | --- |", *(f"| `{name}` | {v} |" for name, v in VERSIONS.items())]
    return "\n\n".join([*parts, "\n".join(rows)]) + "\n"


PAGES: dict[str, Callable[[], str]] = {"cli.md": command_line, "recipe.md": recipe, "filters.md": filters}


def _comments(text: str) -> dict[int, str]:
    """Line -> the comment on it."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _settings(node: ast.ClassDef, comments: dict[int, str]) -> Iterator[str]:
    end = node.lineno
    for field in node.body:
        assert field.end_lineno is not None
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and field.target.id.islower()
        ):
            said = " ".join(comments[n] for n in range(end + 1, field.end_lineno + 1) if n in comments)
            default = f"`{ast.unparse(field.value)}`" if field.value else ""
            cells = (
                f"`{field.target.id}`",
                f"`{_type(field.annotation)}`",
                default,
                said.replace("<", "&lt;"),
            )
            yield "| " + " | ".join(map(_cell, cells)) + " |"
        end = field.end_lineno


def _type(annotation: ast.expr) -> str:
    """`Annotated[int, Field(ge=1)]` as `int, ge=1`."""
    text = ast.unparse(annotation)
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
            assert isinstance(node.slice, ast.Tuple)
            kind, *rest = node.slice.elts
            limits = [ast.unparse(k) for call in rest if isinstance(call, ast.Call) for k in call.keywords]
            text = text.replace(ast.unparse(node), ", ".join([ast.unparse(kind), *limits]))
    return text


def _parameters(function: Callable[..., object]) -> str:
    given = inspect.signature(function).parameters.values()
    return ", ".join(f"`{p.name} = {p.default!r}`" for p in given if p.kind is p.KEYWORD_ONLY)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def main() -> None:
    if sys.argv[1:] != ["--write"]:
        raise SystemExit("usage: python -m tests.docs --write")
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
