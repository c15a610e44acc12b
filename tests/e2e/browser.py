"""A real Chromium without a window, and waiting for what its pages do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# The element with the focus, and whether a user sees that it has it; null for the page itself.
FOCUSED = """
const e = document.activeElement;
if (e === document.body) return null;
const box = e.getBoundingClientRect(), look = getComputedStyle(e);
const outlined = look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) >= 2;
const seen = outlined && look.clipPath === 'none' && box.width > 0 && box.bottom > 0 && box.top < innerHeight;
return [e.id || e.className || e.tagName, seen];
"""


@contextmanager
def opened() -> Iterator[Any]:
    """Starts the system's Chromium; the test is skipped where there is none."""
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
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def tab_through(browser: Any) -> list[str]:
    """Presses Tab from the top of the page to its end; returns the stops, each of them seen to be one."""
    from selenium.webdriver.common.keys import Keys

    stops: list[str] = []
    while True:
        press(browser, Keys.TAB)
        if (focused := browser.execute_script(FOCUSED)) is None:
            return stops
        stop, seen = focused
        assert seen, f"the focus is on {stop}, but nothing shows it"
        stops.append(stop)
        assert len(stops) < 200, f"Tab does not reach the end: {stops[-9:]}"


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends, "it did not come to hold"
        time.sleep(0.05)
