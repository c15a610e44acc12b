"""The documentation as a site: every page is in its menu, no link is broken, its search finds answers."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.browser import opened, until
from tests.e2e.runs import ROOT

# The links of the first three results: each page and its first three sections, folded ones too.
FIRST = """
const results = [...document.querySelectorAll('.md-search-result__item')].slice(0, 3);
return results.flatMap(each => [...each.querySelectorAll('a')].slice(0, 4)).map(a => a.href)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ".mkdocs.yml"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_site_builds_without_a_warning(site: Path) -> None:
    first = (site / "index.html").read_text()
    assert "distills reasoning" in first
    assert "training/" in first
    assert (site / "repository/pipeline/recipes/gsm8k.toml.txt").is_file()
    assert (site / "img/report-evaluation.png").is_file()


def test_one_search_leads_to_the_section_that_answers(address: str) -> None:
    cases = [json.loads(line) for line in (ROOT / "tests/cases/searches.jsonl").read_text().splitlines()]
    with opened() as browser:
        found = {case["search"]: results(browser, address, case["search"]) for case in cases}
    missed = [case for case in cases if case["section"] not in found[case["search"]]]
    assert missed == [], "\n".join(f"{case['search']}: {found[case['search']]}" for case in missed)


def results(browser: Any, address: str, search: str) -> list[str]:
    browser.get("about:blank")
    browser.get(f"{address}?q={quote(search)}")
    shown = "return document.querySelector('.md-search-result__meta')?.innerText ?? ''"
    until(lambda: "matching" in browser.execute_script(shown))
    return [link.removeprefix(address) for link in browser.execute_script(FIRST)]
