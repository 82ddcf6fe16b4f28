"""Headless Chromium on a page: what it says on its console, what it asks the network for, how it looks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
    "--disable-component-update", "--no-first-run", "--disable-dev-shm-usage",
)  # fmt: skip


def missing() -> str | None:
    """Say what is missing for page tests; None if nothing is."""
    if not any(shutil.which(name) for name in BROWSERS):
        return "Chromium is not installed (Debian: apt-get install chromium chromium-driver)"
    if not shutil.which("chromedriver"):
        return "chromedriver is not installed (Debian: apt-get install chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    return None


def required() -> bool:
    """Whether page tests have to run (``make pages``), missing browser or not."""
    return os.environ.get("REQUIRE_BROWSER") == "1"


DRAWN = "return document.documentElement.dataset.drawn !== undefined"
"""Whether a report's charts are there."""


@contextmanager
def page(
    path: Path | str, width: int = 1280, dark: bool = False, height: int = 900, ready: str = DRAWN
) -> Iterator[Any]:
    """Open a file or an address; yield the driver once a script says that it is ready.

    Where there is no browser, the test that asks for it is skipped, or fails if page tests have to run.
    """
    if (why := missing()) is not None:
        (pytest.fail if required() else pytest.skip)(f"page tests: {why}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size(driver, width, height)
        driver.get(path if isinstance(path, str) else path.resolve().as_uri())
        until(driver, ready)
        yield driver
    finally:
        driver.quit()


def size(driver: Any, width: int, height: int) -> None:
    """Give the page a width that no window's least size forbids."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def until(driver: Any, script: str, seconds: float = 60) -> None:
    """Wait until a script returns something true."""
    limit = time.monotonic() + seconds
    while not driver.execute_script(script):
        if time.monotonic() > limit:
            raise TimeoutError(script)
        time.sleep(0.1)


def printed(driver: Any) -> bytes:
    """Print the page on A4; return the PDF."""
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    return base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", paper)["data"])


def complaints(driver: Any) -> list[str]:
    """Return what the console says at warning level or above."""
    return [
        entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def requests(driver: Any) -> list[str]:
    """Return every address that was asked for, but the page's own file and data in it."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "file:"))]


def screenshot(driver: Any, path: Path, width: int, most: int = 6_000) -> None:
    """Keep a picture of the page's first ``most`` pixels."""
    height = driver.execute_script("return document.documentElement.scrollHeight")
    size(driver, width, min(int(height), most))
    time.sleep(0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(path))
