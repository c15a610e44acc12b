"""Shell completion of runs, stages, reasons, sources, recipes and settings, from small files only.

click writes the script and asks for the words. A file that cannot be read gives no words and no error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class, split_arg_string

from pipeline import shipped

SHELLS = ("bash", "zsh", "fish")
# click ends each word with a blank; one that goes on, as `generate.`, must not get it. fish knows such words.
_GOES_ON = {
    "bash": ("COMPREPLY+=($value)", "COMPREPLY+=($value); [[ $value == *[.=/] ]] && compopt -o nospace"),
    "zsh": (
        'completions+=("$key")',
        """[[ "$key" == *[.=/] ]] && compadd -U -S '' -- "$key" || completions+=("$key")""",
    ),
}
VARIABLE = "_RETORT_COMPLETE"  # set by the script when it asks for words


def script(command: click.Command, shell: str) -> str:
    """Returns the script for a shell to evaluate."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    source = kind(command, {}, "retort", VARIABLE).source()
    return source.replace(*_GOES_ON[shell]) if shell in _GOES_ON else source


def runs(context: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
    """Names in the folder of runs; paths are left to the shell."""
    if "/" in word:
        return [CompletionItem(word, type="dir")]
    return _matching(word, (path.parent.name for path in _folder(context).glob("*/recipe.json")))


def recipes(_: click.Context, __: click.Parameter, word: str) -> list[CompletionItem]:
    """TOML files, folders and the names of shipped recipes."""
    folder = Path(word) if word.endswith("/") else Path(word).parent
    found = [p for p in folder.glob("[!.]*") if p.suffix == ".toml" or p.is_dir()]
    named = [p.stem for p in shipped.RECIPES.glob("*.toml")]
    return _matching(word.removeprefix("./"), [*(f"{p}/" if p.is_dir() else str(p) for p in found), *named])


def overrides(_: click.Context, __: click.Parameter, word: str) -> list[CompletionItem]:
    """Settings, a table at a time, and the values of those that have few."""
    from pipeline.config import names

    setting, equals, _value = word.partition("=")
    if equals:
        return _matching(word, (f"{setting}={value}" for value in names.values(setting)))
    words = split_arg_string(os.environ.get("COMP_WORDS", ""))
    position = os.environ.get("COMP_CWORD", "")  # the word itself in fish
    before = words[: int(position) + (not word)] if position.isdecimal() else []
    if len(before) > 1 and before[-1] == "=":  # bash ends a word before and after it
        return _matching(word, names.values(before[-2]))
    return _matching(word, names.below(word.rpartition(".")[0]))


def recipe_or_override(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """For a command whose recipe is optional: the first word is one."""
    return (overrides if context.params.get("words") else recipes)(context, parameter, word)


def stages(context: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
    from pipeline.engine import layout

    return _matching(word, map(str, layout.begun(_run(context))))


def reasons(context: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
    """Rules that rejected traces, without their codes: shells end a word at ": "."""
    report = _read(_run(context) / "filter" / "manifest.json").get("report", {})
    return _matching(word, (why.partition(": ")[0] for why in report.get("rejected", {})))


def sources(context: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
    given = _read(_run(context) / "recipe.json").get("ingest", {}).get("sources", [])
    return _matching(word, (source["name"] for source in given if source.get("name")))


def _folder(context: click.Context) -> Path:
    return Path(context.find_root().params.get("runs") or "data/runs")


def _run(context: click.Context) -> Path:
    """The run on the command line. click does not parse it while an option lacks its value."""
    words = split_arg_string(os.environ.get("COMP_WORDS", ""))
    named = (path for word in words for path in (Path(word), _folder(context) / word))
    return next((path for path in named if (path / "recipe.json").exists()), Path(os.devnull))


def _read(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read


def _matching(word: str, words: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(one) for one in sorted(set(words)) if one.startswith(word) and one.isprintable()]
