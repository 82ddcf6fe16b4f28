"""Look at pages in headless Chromium, 1280 and 400 pixels wide, and take pictures, light and dark.

python -m scripts.screens reports/smollm2-135m/report.html
python -m scripts.screens --site build/site --out reports/docs_screens index.html how-to/other-tools/index.html
python -m scripts.screens --site build/site --out /tmp/screens

All pages of a site are looked at; pictures are taken of those that are named, of all where none is.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.pages import browser

WIDTHS = (1280, 400)
LOADED = "return document.readyState === 'complete'"


def main() -> int:
    """Look and write the pictures; return 1 if a page complained, asked for the network or is wider than the window."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", type=Path, help="Reports, or pages of the site, relative to it.")
    parser.add_argument(
        "--site", type=Path, help="The documentation's built site, all of which is looked at."
    )
    parser.add_argument("--out", type=Path, help="Folder of the pictures; screens/ beside a report.")
    given = parser.parse_args()
    if not given.pages and not given.site:
        parser.error("name a report, or a --site")
    if given.site and not (given.site / "index.html").is_file():
        parser.error(f"{given.site} is no built site; make it: make docs")
    if (why := browser.missing()) is not None:
        print(why, file=sys.stderr)
        return 1
    wrong: list[str] = []
    if given.site:
        # Over HTTP, as readers have it: from a file the theme hides its search.
        with _served(given.site) as origin:
            every = sorted(file.relative_to(given.site) for file in given.site.rglob("*.html"))
            wrong += _faults([f"{origin}/{place}" for place in every], origin)
            print(f"{len(every)} pages looked at, {len(wrong)} faults", flush=True)
            for place in given.pages or every:
                stem = "-".join(place.parent.parts) or place.stem
                out = given.out or given.site / "screens"
                wrong += _pictures(f"{origin}/{place}", out, f"{stem}-", LOADED, 860, origin)
    else:
        for place in given.pages:
            wrong += _pictures(
                place, given.out or place.parent / "screens", "", browser.DRAWN, 6_000, "file:"
            )
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port; yield its origin."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _faults(pages: list[str], own: str) -> Iterator[str]:
    """Yield what is wrong with a site's pages, all opened in one browser."""
    with browser.page(pages[0], ready=LOADED) as driver:
        for page in pages:
            for width in WIDTHS:
                browser.size(driver, width, 900)
                driver.get(page)
                browser.until(driver, LOADED)
                yield from _overflow(driver, page, width)
                yield from _said(driver, page, own)


def _overflow(driver: Any, page: Path | str, width: int) -> Iterator[str]:
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    if wide > width:
        yield f"{page}: {wide} pixels wide in a window of {width}"


def _said(driver: Any, page: Path | str, own: str) -> Iterator[str]:
    """Yield a page's complaints on its console, and requests to any other origin."""
    yield from (f"{page}: {line}" for line in browser.complaints(driver))
    yield from (f"{page}: asks for {url}" for url in browser.requests(driver) if not url.startswith(own))


def _pictures(page: Path | str, out: Path, prefix: str, ready: str, most: int, own: str) -> Iterator[str]:
    """Write ``THEME-WIDTH.png``; yield what is wrong with the page."""
    for dark in (False, True):
        for width in WIDTHS:
            with browser.page(page, width, dark, ready=ready) as driver:
                yield from _overflow(driver, page, width)
                picture = out / f"{prefix}{'dark' if dark else 'light'}-{width}.png"
                browser.screenshot(driver, picture, width, most)
                yield from _said(driver, page, own)
                print(picture, flush=True)


if __name__ == "__main__":
    sys.exit(main())
