"""`retort view` as a process, its page in a real browser: every trace, links, marks, two runs, live."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.engine.journal import done_line
from pipeline.engine.store import Output
from pipeline.rows import Trace
from tests.e2e.browser import opened, press, tab_through, until
from tests.e2e.runs import retort, start
from tests.small_run import HOSTILE, PROBLEMS, SAMPLES, SHARDS, write_run

TRACES = SHARDS * PROBLEMS * SAMPLES


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    write_run(folder / "one")
    write_run(folder / "two", kept=2)
    return folder


@pytest.fixture(scope="module")
def view(runs: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = start(runs, "view", "one", "two", env={"SSH_CONNECTION": "10.0.0.1 5 10.0.0.2 22"})
    assert process.stdout
    yield process.stdout.readline().strip(), process
    process.kill()
    process.communicate()


@pytest.fixture
def page(browser: Any, view: tuple[str, Any]) -> Any:
    browser.get("about:blank")
    return browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as browser:
        yield browser


def shown(page: Any, selector: str) -> str:
    """The text of the elements, also while the page replaces them."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')"
    return str(page.execute_script(script, selector))


def visit(page: Any, address: str, traces: int) -> None:
    page.get(address)
    until(lambda: shown(page, "#range").endswith(f"of {traces}"))


def test_every_trace_can_be_found_by_words_and_linked(page: Any, view: tuple[str, Any], runs: Path) -> None:
    visit(page, view[0], TRACES)
    assert shown(page, "#counts") == f"{TRACES} traces: 24 rejected, 12 kept"
    page.find_element("id", "q").send_keys("add IS 1")
    page.find_element("id", "outcome").send_keys("kept")
    expected = [t for t in open_run(runs / "one").traces.where(outcome="kept") if "1" in text_of(t)]
    until(lambda: shown(page, "#range").endswith(f"of {len(expected)}"))
    page.find_element("id", "list").send_keys("j")
    until(lambda: expected[1].id in page.current_url)
    until(lambda: shown(page, "#trace code") == expected[1].id)
    link = page.current_url
    page.get("about:blank")
    visit(page, link, len(expected))
    until(lambda: shown(page, "#trace code") == expected[1].id)
    assert page.find_element("id", "q").get_attribute("value") == "add IS 1"


def text_of(trace: Trace) -> str:
    return f"{trace.id}{trace.question}{trace.reference}{trace.response}"


def test_text_of_a_model_is_shown_as_text(page: Any, view: tuple[str, Any]) -> None:
    visit(page, view[0], TRACES)
    until(lambda: "alert(1)" in shown(page, "#trace .question"))
    page.find_element("id", "list").send_keys("t")
    until(lambda: HOSTILE.split("\x1b")[0] in shown(page, "#trace .reasoning"))
    assert page.execute_script("return document.querySelectorAll('#trace script').length") == 0


def test_marks_and_notes_are_saved_in_the_run(page: Any, view: tuple[str, Any], runs: Path) -> None:
    visit(page, view[0], TRACES)
    first = shown(page, "#trace code")
    page.find_element("id", "list").send_keys("y")
    until((runs / "one" / "keep.jsonl").exists)
    line = json.loads((runs / "one" / "keep.jsonl").read_text())
    assert line == {"trace": first, "mark": "keep", "text": line["text"]}
    until(lambda: "marked keep" in shown(page, "#list"))
    page.find_element("css selector", "#trace textarea").send_keys("good")
    page.find_element("id", "q").click()
    until((runs / "one" / "notes.jsonl").exists)
    page.get("about:blank")
    visit(page, f"{view[0]}#mark=keep", 1)
    until(lambda: page.find_elements("css selector", ".mark-keep[aria-pressed=true]") != [])
    assert page.find_element("css selector", "#trace textarea").get_attribute("value") == "good"


def test_samples_and_scores_of_two_runs_stand_side_by_side(page: Any, view: tuple[str, Any]) -> None:
    visit(page, view[0], TRACES)
    until(lambda: shown(page, "#trace code") != "")
    page.find_element("id", "list").send_keys("s")
    outcomes = ["kept", "rejected", "rejected", "kept", "kept", "rejected"]
    until(lambda: shown(page, ".samples .head strong").split() == outcomes)
    assert "1 of 3" in shown(page, "#trace table")
    page.find_element("css selector", "#scores summary").click()
    until(lambda: "held_out, teacher" in shown(page, "#scores table"))


def test_all_can_be_done_by_keys_alone(page: Any, view: tuple[str, Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(page, view[0], TRACES)
    until(lambda: shown(page, "#trace code") != "")
    stops = tab_through(page)
    assert stops[:2] == ["skip", "theme"]
    for stop in ("run", "q", "sort", "clear", "list", "copy", "all", "mark-keep", "mark-drop", "TEXTAREA"):
        assert stop in stops
    first = shown(page, "#trace code")
    press(page, Keys.TAB, Keys.ENTER, Keys.ARROW_DOWN)  # past the filters, to the next trace
    until(lambda: shown(page, "#trace code") != first)
    press(page, Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER)  # copy, link, all samples
    until(lambda: len(page.find_elements("css selector", ".samples > section")) == 2 * SAMPLES)
    assert page.switch_to.active_element.get_attribute("id") == "trace"  # the button that was pressed is gone
    press(page, Keys.TAB, Keys.ENTER)  # the button that leads back
    until(lambda: page.find_elements("css selector", ".samples") == [])


def test_mistakes_and_empty_results_say_so(page: Any, view: tuple[str, Any]) -> None:
    page.get(f"{view[0]}#q=nothing+like+this")
    until(lambda: "No trace matches" in shown(page, "#trace"))
    page.get("about:blank")
    page.get(f"{view[0]}#where=tokens+%3E+1")
    until(lambda: "no field 'tokens'" in shown(page, "#error"))


def test_new_traces_appear_while_a_run_works(page: Any, runs: Path) -> None:
    shutil.copytree(runs / "one", runs / "live")
    output = Output(runs / "live" / "generate", Trace)
    manifest, shard = output.manifest(), output.shards()[-1]
    assert manifest is not None
    rows = list(shard.rows())
    output.save(manifest.model_copy(update={"digests": None}))
    shard.path.unlink()
    process = start(runs, "view", "live")
    assert process.stdout
    try:
        visit(page, process.stdout.readline().strip(), TRACES - len(rows))
        shard.append(map(done_line, rows[:2]))
        until(lambda: shown(page, "#counts").startswith(f"{TRACES - len(rows) + 2} traces"))
        page.get("about:blank")
    finally:
        process.kill()
        process.communicate()


def test_the_page_fits_a_narrow_screen_and_loads_nothing(page: Any, view: tuple[str, Any]) -> None:
    narrow = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        visit(page, view[0], TRACES)
        until(lambda: page.execute_script("return document.documentElement.scrollWidth") == 390)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry for entry in page.get_log("browser") if "400 (Bad Request)" not in entry["message"]] == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("http://127.0.0.1:", "data:", "about:")) for url in asked)


def test_ctrl_c_ends_it_quietly(view: tuple[str, subprocess.Popen[str]], runs: Path) -> None:
    address, process = view
    port = address.split(":")[2].split("/")[0]
    taken = retort(runs, "view", "one", "--port", port)
    assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert f"ssh -N -L {port}:127.0.0.1:{port}" in err
    assert address.split("/")[3] not in err


def test_a_run_that_is_not_there_is_one_line(runs: Path) -> None:
    done = retort(runs, "view", "nothing")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no run there" in done.stderr
