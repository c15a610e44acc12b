"""`retort report` on real runs, and its page in a real browser: clicks, filters, keys, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.model_rows import Score, Step
from pipeline.rows import Trace, TraceVerdicts
from tests.conftest import FakeServer
from tests.e2e.browser import opened, press, tab_through, until
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
    assert page.count("</script>") == 4
    block = page.partition('type="application/json">')[2].partition("</script>")[0]
    assert any(trace["id"] == HOSTILE for trace in json.loads(block)["traces"])


def test_a_path_that_cannot_be_written_is_reported_in_one_line(run: Path) -> None:
    done = retort(run.parent, "report", "test", "--out", str(run / "nowhere" / "report.html"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no folder" in done.stderr


@pytest.fixture(scope="module")
def browser(run: Path) -> Iterator[Any]:
    with opened() as browser:
        browser.get(f"file://{run / 'report.html'}")
        yield browser


def chosen(browser: Any, field: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", field)).select_by_value(value)


def listed(browser: Any) -> list[str]:
    found = browser.execute_script("return [...document.querySelectorAll('#list li')].map(e => e.innerText)")
    return list(found)


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
    browser.find_element("id", "search").send_keys("needle THE")
    marks = "return [...document.querySelectorAll('#trace mark')].map(e => e.textContent)"
    until(lambda: {"the", "needle"} <= set(browser.execute_script(marks)))  # all is typed and searched
    assert len(listed(browser)) == 1
    shown = browser.find_element("id", "trace")
    assert shown.find_element("tag name", "code").text.startswith("</script><img src=x onerror=alert(1)>")
    assert not shown.find_elements("css selector", "img, script")
    assert shown.find_element("css selector", ".fold").get_attribute("open")
    assert len(shown.find_elements("css selector", ".fold math mfrac")) == 2
    assert "{{{{" in shown.find_element("css selector", ".fold").text


def test_the_reasoning_is_folded_until_a_click_or_key(browser: Any) -> None:
    browser.find_element("id", "f-clear").click()
    chosen(browser, "f-outcome", "kept")
    reasoning = browser.find_element("css selector", ".fold")
    assert not reasoning.get_attribute("open")
    reasoning.find_element("tag name", "summary").click()
    until(lambda: bool(browser.find_elements("css selector", ".fold .reasoning")))
    browser.find_element("id", "list").send_keys("t")
    assert not browser.find_element("css selector", ".fold").get_attribute("open")


def test_keys_move_through_the_list_and_focus_the_search(browser: Any) -> None:
    browser.find_element("id", "f-clear").click()
    first = browser.find_element("css selector", "#trace code").text
    browser.find_element("id", "list").send_keys("j")
    second = browser.find_element("css selector", "#trace code").text
    assert first != second
    browser.find_element("id", "list").send_keys("k")
    assert browser.find_element("css selector", "#trace code").text == first
    browser.find_element("id", "list").send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "search"


def test_problems_can_be_filtered_and_link_to_their_traces(browser: Any) -> None:
    chosen(browser, "p-change", "broken")
    rows = "#p-table tbody tr"
    until(lambda: len(browser.find_elements("css selector", rows)) == 1)
    button = browser.find_element("css selector", f"{rows} button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    until(lambda: browser.find_element("id", "search").get_attribute("value") != "")
    assert any("evaluate/held_out/student" in line for line in listed(browser))


def test_a_link_opens_its_trace_and_a_search_without_a_match_says_so(browser: Any, run: Path) -> None:
    browser.find_element("id", "search").send_keys("nothing like this")
    until(lambda: "No trace of the sample matches" in browser.find_element("id", "trace").text)
    last = browser.execute_script("return DATA.traces.at(-1).id")
    browser.get(f"file://{run / 'report.html'}#trace={last}")
    until(lambda: browser.find_element("css selector", "#trace code").text == last)
    browser.get(f"file://{run / 'report.html'}#trace=elsewhere")
    until(lambda: "elsewhere is not in this sample" in browser.find_element("id", "trace").text)
    browser.find_element("id", "f-clear").click()


def test_all_can_be_done_by_keys_alone(browser: Any, run: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get("about:blank")
    browser.get(f"file://{run / 'report.html'}")
    until(lambda: len(listed(browser)) > 1)
    stops = tab_through(browser)
    assert stops[0] == "skip"
    for stop in ("theme", "p-search", "f-stage", "search", "f-clear", "list", "copy", "link"):
        assert stop in stops
    press(browser, Keys.TAB, Keys.ENTER, Keys.TAB)  # past the navigation
    assert browser.execute_script("return document.querySelector('main').contains(document.activeElement)")
    browser.find_element("css selector", "#trace .copy").send_keys("j")
    assert browser.switch_to.active_element.get_attribute("id") == "trace"  # the button is gone


def test_the_headline_has_scores_yield_and_cost_before_anything_else(browser: Any) -> None:
    text = browser.find_element("css selector", "main > section").text
    for shown in ("student, held_out: pass@1", "95 % from", "traces kept", "tokens sampled"):
        assert shown in text


def test_charts_are_read_as_text_and_headers_have_a_scope(browser: Any) -> None:
    count = "return document.querySelectorAll(arguments[0]).length"
    assert browser.execute_script(count, "figure svg[role=img][aria-label]") > 5
    assert browser.execute_script(count, "figure svg:not([aria-label]), th:not([scope])") == 0


def test_a_narrow_screen_shows_the_whole_page_width(browser: Any) -> None:
    narrow = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        until(lambda: browser.execute_script("return innerWidth") == 390)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_themes_change_and_ids_are_copied(browser: Any) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):
        browser.find_element("id", "theme").click()
        seen.add(browser.execute_script(back))
    assert len(seen) == 2
    browser.find_element("css selector", ".copy").click()
    until(lambda: browser.find_element("css selector", ".copy").text == "Copied")


def test_the_page_logs_no_error_and_uses_no_network(browser: Any) -> None:
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file://", "data:")) for url in asked)
