"""Take pictures of a page in headless Chromium: 1280 and 400 pixels wide, light and dark.

python -m scripts.screens reports/smollm2-135m/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.pages import browser

WIDTHS = (1280, 400)


def main(page: Path) -> int:
    """Write ``screens/THEME-WIDTH.png`` beside the page; return 1 if it complained or asked for the network."""
    if (why := browser.missing()) is not None:
        print(why, file=sys.stderr)
        return 1
    wrong = []
    for dark in (False, True):
        for width in WIDTHS:
            with browser.page(page, width, dark) as driver:
                out = page.parent / "screens" / f"{'dark' if dark else 'light'}-{width}.png"
                browser.screenshot(driver, out, width)
                wrong += browser.complaints(driver) + browser.requests(driver)
                print(out)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
