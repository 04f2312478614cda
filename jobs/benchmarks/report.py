"""How large is the report, and how long does a browser take to open it? (Chromium, made-up studies.)

``ours`` is megabytes, or seconds from opening the file until the first figure is drawn (median of five); ``peer`` is
the most that either should be.
"""

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from jobs.benchmarks._common import row
from taskpgm_ray.report import render
from tests.report.conftest import judged, make

SIZES = (8, 60, 500)
MOST_MEGABYTES = 3.0
"""Of a study of eight tasks."""
MOST_SECONDS = 3.0
"""To open any of them."""
REPEATS = 5


def run():
    """Two rows per number of tasks; without a browser the sizes alone."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            page = Path(folder) / f"{n}.html"
            page.write_text(render(judged(make(n))), encoding="utf-8")
            target = 1.0 if n == SIZES[0] else None
            rows.append(row(f"{n} tasks: MB", page.stat().st_size / 1e6, MOST_MEGABYTES, "at most", target))
            if browser:
                rows.append(row(f"{n} tasks: s to open", opened(browser, page), MOST_SECONDS, "at most", 1.0))
    return rows


def opened(browser, page):
    """Seconds until the first figure is drawn."""
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(REPEATS):
            tab = started.new_page(viewport={"width": 1280, "height": 900})
            begin = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("#figure-mixture .main-svg")
            taken.append(time.perf_counter() - begin)
            tab.close()
        started.close()
    return median(taken)
