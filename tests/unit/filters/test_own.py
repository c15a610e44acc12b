"""Filters of the user's own files and modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from filters.table import apply_rules, check_rules, with_versions
from pipeline.errors import UserError
from tests.unit.filters.test_table import a_trace

RULES = """
from filters.result import FilterResult, failed, passed
from pipeline.rows import Trace

def brief(trace: Trace, *, words: int = 20) -> FilterResult:
    found = len(trace.response.split())
    return passed() if found <= words else failed("wordy", f"{found} words")

def careless(trace):
    return True

def number(trace):
    return failed(7)

def word(trace):
    return FilterResult("kept", "")

def count(trace):
    return FilterResult("failed", "wordy", 7)
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{tmp_path.name}_rules.py"
    path.write_text(RULES)
    return path


def test_a_function_of_a_file_in_the_current_folder_is_a_filter(rules: Path) -> None:
    name = f"{rules.name}:brief"
    check_rules({name: {"words": 3}})
    trace = apply_rules(a_trace(response="So the answer is 7."), {name: {"words": 3}})
    assert (trace.outcome, trace.reason) == ("rejected", f"{name}: wordy")
    assert trace.verdicts[0].evidence == "5 words"
    assert apply_rules(a_trace(response="7"), {name: {}}).outcome == "kept"


def test_a_function_of_an_importable_module_is_a_filter(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(rules.parent))
    name = f"{rules.stem}:brief"
    check_rules({name: {}})
    assert apply_rules(a_trace(response="7"), {name: {}}).outcome == "kept"


def test_an_edited_file_is_another_version(rules: Path) -> None:
    name = f"{rules.name}:brief"
    before = with_versions({name: {}})[name]["version"]
    copy = rules.with_name("edited.py")
    copy.write_text(RULES.replace("<=", "<"))
    assert with_versions({"edited.py:brief": {}})["edited.py:brief"]["version"] != before


def test_a_result_of_another_type_leaves_the_trace_undecided(rules: Path) -> None:
    (verdict,) = apply_rules(a_trace(), {f"{rules.name}:careless": {}}).verdicts
    assert (verdict.outcome, verdict.reason) == ("undecided", "raised")
    assert verdict.evidence == "TypeError: it returned True instead of passed(), failed() or undecided()"


@pytest.mark.parametrize("function", ["number", "word", "count"])
def test_a_result_that_no_verdict_can_hold_leaves_the_trace_undecided(rules: Path, function: str) -> None:
    (verdict,) = apply_rules(a_trace(), {f"{rules.name}:{function}": {}}).verdicts
    assert (verdict.outcome, verdict.reason) == ("undecided", "raised")
    assert str(verdict.evidence).startswith("TypeError: it returned FilterResult(")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:brief", "no file 'none.py' in"),
        ("none.module:brief", "cannot import none.module: ModuleNotFoundError"),
        ("broken.py:brief", "cannot import broken.py: SyntaxError"),
        ("{file}:breif", "has no function 'breif'; did you mean 'brief'?"),
        ("{file}:brief", "unknown parameter 'word'; did you mean 'words'?"),
        ("hints.py:typed", "name 'Nowhere' is not defined"),
    ],
)
def test_what_cannot_be_used_is_named_before_any_work(rules: Path, name: str, message: str) -> None:
    Path("broken.py").write_text("def brief(")
    Path("hints.py").write_text("def typed(trace: 'Nowhere', *, word: int = 1): ...")
    with pytest.raises(UserError, match=re.escape(message)):
        check_rules({name.format(file=rules.name): {"word": 1}})
