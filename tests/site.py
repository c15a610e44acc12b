"""Hooks of mkdocs: the README as the first page, files that pages link to, the order of search results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# The search shows pages that explain before pages that list, and the history of changes not at all.
LISTS = ("recipe.md", "cli.md", "columns.md", "figures.md", "CONTRIBUTING.md")
SEARCH = {
    **{page: {"boost": 0.3} for page in LISTS},
    "CHANGELOG.md": {"exclude": True},
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the README, with links as from a page of docs/, and what pages link to outside of docs/."""
    files.append(File.generated(config, "index.md", content=_as_page((ROOT / "README.md").read_text())))
    pages = [file.content_string for file in files if file.is_documentation_page()]
    for target in {target for text in pages for target in _outside(text)}:
        files.append(File.generated(config, _copy(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lets links to ../FILE lead to the copy of the file; a link to a folder becomes plain text."""
    page.meta["search"] = SEARCH.get(page.file.src_uri, {})

    def rewritten(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if not target.startswith("../"):
            return link[0]
        path = target.removeprefix("../")
        if path == "README.md":
            return f"[{text}](index.md{anchor})"
        return f"{image}[{text}]({_copy(path)})" if (ROOT / path).is_file() else text

    return LINK.sub(rewritten, markdown)


def _as_page(readme: str) -> str:
    """Rewrites links of the README as if it lay in docs/."""
    targets = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
    return targets.sub(lambda link: f"]({_from_docs(link[1])})", readme)


def _from_docs(target: str) -> str:
    if target == "docs/README.md" or target == "docs/":
        return "index.md"
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"


def _outside(text: str) -> list[str]:
    paths = [link[3].removeprefix("../") for link in LINK.finditer(text) if link[3].startswith("../")]
    return [path for path in paths if path != "README.md" and (ROOT / path).is_file()]


def _copy(path: str) -> str:
    """Where a file of the repository lies in the site; as text, so that a browser shows it."""
    return f"repository/{path.lstrip('.')}.txt"
