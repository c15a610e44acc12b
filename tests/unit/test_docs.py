"""The pages of docs/ say what the code says now, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests import docs

PAGES = sorted(docs.DOCS.glob("*.md"))


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (docs.DOCS / name).read_text() == docs.PAGES[name](), "run `python -m tests.docs --write`"


@pytest.mark.parametrize("page", [docs.ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_every_page_is_named_on_the_first_one() -> None:
    text = (docs.DOCS / "README.md").read_text()
    assert [p.name for p in PAGES if p.name != "README.md" and f"({p.name})" not in text] == []


def test_no_setting_is_left_without_a_type() -> None:
    rows = [line for line in docs.recipe().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(row.split(" | ")[1].strip("` ") for row in rows)
