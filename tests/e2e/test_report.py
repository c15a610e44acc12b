"""`retort report` on real runs, and its page in a real browser: clicks, filters, keys, no network."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.rows import Score, Step, Trace, TraceVerdicts
from tests.conftest import FakeServer
from tests.e2e.runs import retort, run_stages, write_recipe
from tests.unit.pipeline.report.test_report import HOSTILE, score

MACROS = "\\def\\a{\\b\\b}\\def\\b{\\c\\c}\\def\\c{\\d\\d}\\def\\d{\\a}\\a"
REASONING = f"{HOSTILE} then $\\frac{{3}}{{4}}$ and $${'{' * 1400}$$ and $${MACROS}$$ the needle"


def seal(folder: Path, row: type, rows: list[Any], report: dict[str, Any]) -> None:
    output = Output(folder, row)
    output.save(Manifest(stage=folder.name, version=1, settings={}, inputs={}))
    output.write("shard-00000", rows)
    output.finish(report)


def finish(run: Path) -> None:
    """Adds a training, an evaluation and a hostile trace to a run that ends with its examples."""
    traces = list(open_run(run).traces)
    hostile = traces[0].model_copy(
        update={
            "id": HOSTILE,
            "question": HOSTILE,
            "reasoning": REASONING,
            "response": REASONING,
            "source": HOSTILE,
        }
    )
    for stage, row in (("generate", Trace), ("filter", TraceVerdicts)):
        shard = Output(run / stage, row).shards()[0]
        first = hostile.model_dump(include=set(row.model_fields))
        changed = [first, *[other.model_dump() for other in shard.rows()][1:]]
        shard.path.unlink()  # sealed shards are unchanged
        shard.write(changed)
    nothing = dict.fromkeys(Step.model_fields)
    steps = [
        Step(
            **nothing
            | {"id": str(i), "step": i, "steps": 30, "epoch": i / 10, "loss": 2 / i, "learning_rate": 1e-5}
        )
        for i in range(1, 31)
    ]
    seal(run / "train", Step, steps, {"first_loss": 2.0, "last_loss": 0.07, "validation_loss": None})
    ids = sorted({trace.problem_id for trace in traces})[:8]
    for role in ("base", "student", "teacher"):
        mine = [t.model_copy(update={"prompt": "plain"}) for t in traces if t.problem_id in ids]
        seal(run / "evaluate" / "held_out" / role / "generate", Trace, mine, {})
        verdicts = [TraceVerdicts(**t.model_dump(include=set(TraceVerdicts.model_fields))) for t in mine]
        seal(run / "evaluate" / "held_out" / role / "filter", TraceVerdicts, verdicts, {})
    correct = {"base": 1, "student": 3, "teacher": 4}
    scores = [score(p, s, 4 - n if i == 0 else n) for s, n in correct.items() for i, p in enumerate(ids)]
    seal(run / "evaluate", Score, scores, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    server = FakeServer("--malformed", "0.2", "--truncated", "0.1", "--correct", "0.5")
    try:
        recipe = str(write_recipe(folder, server.url))
        run_stages(folder, recipe, "ingest")
        done = retort(folder, "report", "test", "--out", str(folder / "early.html"))
        assert done.returncode == 0, done.stderr
        run_stages(folder, recipe, "generate", "filter", "select")
    finally:
        server.stop()
    finish(folder / "test")
    done = retort(folder, "report", "test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "test" / "report.html")
    return folder / "test"


def test_the_report_of_a_new_run_names_what_is_missing(run: Path) -> None:
    page = (run.parent / "early.html").read_text()
    for missing in ("Nothing is filtered yet", "No step of training", "Nothing is evaluated yet"):
        assert missing in page


def test_the_report_loads_nothing_and_contains_no_markup_of_a_model(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert len(page.encode()) < 5_000_000
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror" in page
    assert page.count("</script>") == 3
    block = page.partition('type="application/json">')[2].partition("</script>")[0]
    assert any(trace["id"] == HOSTILE for trace in json.loads(block)["traces"])


def test_a_path_that_cannot_be_written_is_reported_in_one_line(run: Path) -> None:
    done = retort(run.parent, "report", "test", "--out", str(run / "nowhere" / "report.html"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no folder" in done.stderr


@pytest.fixture(scope="module")
def browser(run: Path) -> Iterator[Any]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its driver here (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        opened.get(f"file://{run / 'report.html'}")
        yield opened
    finally:
        opened.quit()


def chosen(browser: Any, field: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", field)).select_by_value(value)


def listed(browser: Any) -> list[str]:
    found = browser.execute_script("return [...document.querySelectorAll('#list li')].map(e => e.innerText)")
    return list(found)


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends, "it did not come to hold"
        time.sleep(0.05)


def test_filters_select_traces_and_clear_shows_all(browser: Any) -> None:
    everything = len(listed(browser))
    chosen(browser, "f-stage", "filter")
    chosen(browser, "f-outcome", "rejected")
    lines = listed(browser)
    assert 0 < len(lines) < everything
    assert all("rejected" in line and "filter" in line for line in lines)
    browser.find_element("id", "f-clear").click()
    assert len(listed(browser)) == everything


def test_a_search_finds_a_hostile_trace_and_shows_it_as_text_with_its_formulas(browser: Any) -> None:
    browser.find_element("id", "f-clear").click()
    browser.find_element("id", "f-search").send_keys("the needle")
    marks = "return [...document.querySelectorAll('#trace mark')].map(e => e.textContent)"
    until(lambda: "the needle" in browser.execute_script(marks))  # the whole text is typed and searched
    assert len(listed(browser)) == 1
    shown = browser.find_element("id", "trace")
    assert shown.find_element("tag name", "code").text.startswith("</script><img src=x onerror=alert(1)>")
    assert not shown.find_elements("css selector", "img, script")
    assert shown.find_element("id", "reasoning").get_attribute("open")
    assert len(shown.find_elements("css selector", "#reasoning math mfrac")) == 2
    assert "{{{{" in shown.find_element("id", "reasoning").text


def test_the_reasoning_is_folded_until_a_click_or_key(browser: Any) -> None:
    browser.find_element("id", "f-clear").click()
    chosen(browser, "f-outcome", "kept")
    reasoning = browser.find_element("id", "reasoning")
    assert not reasoning.get_attribute("open")
    reasoning.find_element("tag name", "summary").click()
    until(lambda: bool(browser.find_elements("css selector", "#reasoning .reasoning")))
    browser.find_element("id", "list").send_keys("t")
    assert not browser.find_element("id", "reasoning").get_attribute("open")


def test_keys_move_through_the_list_and_focus_the_search(browser: Any) -> None:
    browser.find_element("id", "f-clear").click()
    first = browser.find_element("css selector", "#trace code").text
    browser.find_element("id", "list").send_keys("j")
    second = browser.find_element("css selector", "#trace code").text
    assert first != second
    browser.find_element("id", "list").send_keys("k")
    assert browser.find_element("css selector", "#trace code").text == first
    browser.find_element("id", "list").send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "f-search"


def test_problems_can_be_filtered_and_link_to_their_traces(browser: Any) -> None:
    chosen(browser, "p-change", "broken")
    rows = "#p-table tbody tr"
    until(lambda: len(browser.find_elements("css selector", rows)) == 1)
    button = browser.find_element("css selector", f"{rows} button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    until(lambda: browser.find_element("id", "f-search").get_attribute("value") != "")
    assert any("evaluate/held_out/student" in line for line in listed(browser))


def test_themes_change_and_ids_are_copied(browser: Any) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):
        browser.find_element("id", "theme").click()
        seen.add(browser.execute_script(back))
    assert len(seen) == 2
    browser.find_element("id", "copy").click()
    until(lambda: browser.find_element("id", "copy").text == "Copied")


def test_the_page_logs_no_error_and_uses_no_network(browser: Any) -> None:
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file://", "data:")) for url in asked)
