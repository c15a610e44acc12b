"""The generated pages of docs/ match the code, every setting is documented, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from pipeline.config.base import RecipeTable, SamplingSettings
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


SETTINGS = [(table.__name__, *each) for _, table in docs.tables() for each in docs.settings(table)]


def test_every_table_of_a_recipe_is_documented() -> None:
    def below(table: type[RecipeTable]) -> set[type[RecipeTable]]:
        return {t for each in table.__subclasses__() for t in ({each} | below(each))}

    assert {table for _, table in docs.tables()} == below(RecipeTable) - {SamplingSettings}
    assert len(SETTINGS) > 150


def test_every_setting_has_a_meaning_in_whole_sentences() -> None:
    for table, name, field in SETTINGS:
        assert re.fullmatch(r"[A-Z].+\.", field.description or "", re.DOTALL), f"{table}.{name}"


def test_types_are_spelled_out_in_words() -> None:
    for table, name, field in SETTINGS:
        words = docs.type_of(field.annotation, field.metadata)
        assert not re.search(r"[\[(]|None|\b(int|str|bool|float|tuple|Share)\b", words), (
            f"{table}.{name}: {words}"
        )
    (ngrams,) = (docs.type_of(f.annotation, f.metadata) for _, name, f in SETTINGS if name == "ngrams")
    assert ngrams == "list of whole numbers, from 4 to 50"
