"""
Make the README's pictures: python docs/images/make_images.py [--only table]

Opens a real JupyterLab in Chromium, runs the demo's risk table and the dashboard in it over the
embedded engine with the demo model (`urisk fetch-model`), and saves table.png and dashboard.png
beside this file. Needs JupyterLab, playwright and Chromium; the server and all else is local.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # JupyterLab, as the tests start it

from browser import CHROMIUM, FLAGS, Book, jupyter_lab
from harness import free_port

HERE = Path(__file__).parent
MAX_BYTES = 200_000
SETTLE_MS = 1500  # JupyterLab lays the page out anew, and the dashboard draws
SETUP = """
%load_ext urisk_nb
from urisk_nb import demo
prices, news = demo.prices(), demo.evidence()
"""
# Few rows: the install command is to be on the first screen of the README, too.
RISK = """%%risk --prices prices --evidence news
GOOG, FB, MSFT"""
QUESTIONS = """
from urisk_nb import LLMManager, event_loop
m = LLMManager.get_instance()
for number in range(12):
    m.generate_sync(f"In one sentence, what is risk number {number}?", options={"num_predict": 12})
"""
# Calls that last: they are in flight while the picture is taken.
LONG = """
calls = [event_loop.submit(m.stream(f"Tell a long story, part {n}.").whole()) for n in range(3)]
"""
# What is around the cells is JupyterLab's, and no matter of the picture.
HIDE = """
.jp-NotebookPanel-toolbar, .jp-Toolbar, #jp-top-panel, #jp-menu-panel, .jp-SideBar,
#jp-bottom-panel, .lm-TabBar, .jp-Notebook-footer, .jp-cell-toolbar { display: none !important; }
"""


def run(book: Any, code: str) -> Any:
    """Run a cell to its end; a start or a table may take a while on a busy machine."""
    cell = book.start(code)
    done = cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]:"))
    done.wait_for(timeout=180_000)
    return cell


def cut_out(page: Any, locator: Any, path: Path, max_height: int) -> None:
    """Save a picture of the element, its upper part where it is very high."""
    hidden = page.add_style_tag(content=HIDE)  # for the picture only: `Book` uses the menus
    page.mouse.move(0, 0)
    locator.evaluate("cell => cell.scrollIntoView()")
    page.wait_for_timeout(SETTLE_MS)
    box = locator.bounding_box()
    clip = {**box, "height": min(box["height"], max_height)}
    page.screenshot(path=str(path), clip=clip)
    hidden.evaluate("tag => tag.remove()")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {size} bytes, more than {MAX_BYTES}")
    print(f"{path.name}: {clip['width']:.0f} x {clip['height']:.0f}, {size / 1000:.0f} kB")


def take_table(book: Any) -> None:
    cell = run(book, RISK)
    cell.locator(".urisk-table").wait_for(timeout=120_000)
    cut_out(book.page, cell, HERE / "table.png", 612)


def take_dashboard(book: Any) -> None:
    book.clear()
    run(book, QUESTIONS)
    run(book, LONG)
    book.clear()
    cell = run(book, "%urisk_dashboard")
    book.ready()
    cell.locator("table[aria-label='in-flight calls']").wait_for(timeout=20_000)
    cut_out(book.page, cell, HERE / "dashboard.png", 900)
    run(book, "for call in calls: call.cancel()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=("table", "dashboard"))
    only = parser.parse_args().only
    if CHROMIUM is None:
        raise SystemExit("no Chromium on this machine: install it, then run this again")
    from playwright.sync_api import sync_playwright

    env = {
        "OLLAMA_URL": f"http://127.0.0.1:{free_port()}",
        "URISK_ENGINE": "embedded",
        "URISK_JOURNAL": "off",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab(Path(folder), env) as (url, _),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1480, "height": 1400})
        book = Book(page, url, Path(folder), "pictures")
        run(book, SETUP)
        run(book, "%urisk_start")
        book.clear()
        if only in (None, "table"):
            take_table(book)
        if only in (None, "dashboard"):
            take_dashboard(book)
        run(book, "%urisk_stop")
        book.close()
        browser.close()


if __name__ == "__main__":
    main()
