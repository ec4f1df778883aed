"""The pictures of pages in README and manual, taken from the lake that `make demo` left; needs Chromium on the PATH.

make demo && make screenshots
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from lakehouse.config import load
from lakehouse.operations import report

PICTURES = Path(__file__).parent / "pictures"
TOPIC, HOUR = "flight_departed", "2013-01-02T13"
WIDTH, HEIGHT = 760, 470
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]


def main() -> int:
    chromium = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        print("screenshots: no Chromium on the PATH (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        config = load()
        report.build(config, folder, config.now())
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for place, picture in (("index.html", "grid.png"), (f"{TOPIC}/{HOUR}.html", "hour.png")):
            page.goto(f"file://{folder}/{place}")
            page.screenshot(path=PICTURES / picture)
            print(PICTURES / picture)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
