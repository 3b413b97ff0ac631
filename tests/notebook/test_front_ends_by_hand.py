"""
Real runs in the front ends that people use by hand: consoles, and notebooks in a browser.
docs/notebook.md has the matrix; what runs unattended is in test_front_ends.py.
"""

import contextlib
import os
import re
import sys

import pytest

from browser import CHROMIUM, FLAGS, jupyter_server, write_notebook
from front_ends import (
    ANSWER,
    GOOD,
    KERNEL,
    SETUP,
    TWO_LINES,
    needs,
)
from harness import ANSI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def screen(text):
    """What stands on a terminal after this: a carriage return goes back to the line's start."""
    lines = []
    for line in ANSI.sub("", text).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines)


class Console:
    """A front end in a terminal of its own, used as by hand."""

    def __init__(self, env, folder, module, *words):
        import pexpect

        self.child = pexpect.spawn(
            sys.executable,
            ["-m", module, "--simple-prompt", *words],
            env={**env, "TERM": "xterm"},
            cwd=str(folder),
            encoding="utf-8",
            timeout=40,  # a hang, and not the time that a busy machine takes
            dimensions=(40, 100),
        )
        self.number = 1
        try:
            self.child.expect_exact("In [1]: ")
        except BaseException:
            self.child.close(force=True)
            raise

    def start(self, line):
        self.child.sendline(line)
        self.child.expect_exact(line)

    def end(self):
        self.number += 1
        self.child.expect_exact(f"In [{self.number}]: ")
        return screen(self.child.before).strip()

    def run(self, line):
        """What stands on the screen for one line."""
        self.start(line)
        return self.end()

    def close(self):
        if self.child.isalive():
            self.child.sendline("exit")
            self.child.expect_exact([__import__("pexpect").EOF])
        self.child.close()


@needs("pexpect")
@pytest.mark.parametrize(
    ("module", "words"),
    [
        pytest.param("IPython", ["--no-banner"], id="ipython"),
        pytest.param("jupyter_console", [], id="jupyter console", marks=needs("jupyter_console")),
    ],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_console(env, tmp_path, module, words):
    """
    The answer grows and stands there once, progress leaves nothing, the dashboard is a picture of
    text; an error is two lines, and an interrupt stops the answer.
    """
    console = Console(env, tmp_path, module, *words)
    try:
        for line in SETUP.splitlines():
            console.run(line)
        started = console.run("%urisk_start")
        assert re.fullmatch(
            r"Ollama [\d.]+ at \S+, already running: \S+ is ready \(.*\)\.", started
        )
        console.start("answer = %ask Say it slowly")
        console.child.expect_exact("one two")
        assert "six" not in console.child.buffer, "it grows"
        assert re.fullmatch(
            r"three four five six\n\nllama3.1:latest · 6 tokens · .* s", console.end()
        )
        table = console.run("table = %risk AAA --evidence news")
        assert table == ""
        assert console.run("table").count("legal") >= 1
        assert "is_widget" not in console.run("%urisk_dashboard")
        failed = console.run("%risk AAA --evidence odd")
        assert failed.splitlines()[-2:] == TWO_LINES
        assert failed.count("Fix: ") == 1
        assert "0 of 1" not in failed
        console.start("%ask Say something long")
        console.child.expect_exact("word word word")
        console.child.sendintr()
        stopped = console.end()
        assert "KeyboardInterrupt: you stopped the answer" in stopped
        assert "Traceback" not in stopped
        assert console.run("print('still', 'here')") == "still here"
    finally:
        console.close()


# Every text that an output has had; what is shown in between is part of what a reader sees.
RECORD = """() => {
  window.seen = new Set();
  const look = () => document.querySelectorAll('.jp-OutputArea-output').forEach(
    node => window.seen.add(node.innerText));
  new MutationObserver(look).observe(
    document.body, {subtree: true, childList: true, characterData: true});
}"""
SHOWN = [
    *GOOD[:2],
    "%%ask\nSay it slowly",
    GOOD[3],
    "%urisk_dashboard",
    "%%risk --evidence odd\nAAA",
    "print('never', 'here')",
    "%%ask\nSay something long",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    ("module", "place"),
    [
        pytest.param("notebook", "notebooks", id="Notebook 7", marks=needs("notebook")),
        pytest.param("jupyterlab", "lab/tree", id="JupyterLab"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_a_notebook_in_a_browser(env, tmp_path, module, place):
    """
    The answer grows in its place, the table is one, the dashboard is there, and the run that fails
    ends with two lines, and with it the cells in the queue. The toolbar's button stops an answer.
    """
    from playwright.sync_api import TimeoutError, sync_playwright  # noqa: A004

    write_notebook(tmp_path / "shown.ipynb", SHOWN, KERNEL)
    with jupyter_server(module, tmp_path, env) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 4000})
        page.goto(f"{url}/{place}/shown.ipynb")
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=30_000)
        page.evaluate(RECORD)
        cells = page.locator(".jp-Notebook .jp-CodeCell")

        def outputs(number):
            return cells.nth(number).locator(".jp-OutputArea-output")

        def run(first, last):
            cells.nth(first).locator(".cm-content").click()
            for _ in range(first, last + 1):
                page.keyboard.press("Shift+Enter")

        # The page goes on to load its keys after the kernel is there
        done = cells.nth(0).locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]:"))
        for _ in range(6):
            if page.locator(".jp-Dialog").count():  # a busy server makes it ask for a kernel
                page.keyboard.press("Escape")
            run(0, 0)
            with contextlib.suppress(TimeoutError):
                done.wait_for(timeout=5000)
                break
        run(1, 6)
        failed = outputs(5).filter(has_text=TWO_LINES[0])
        try:
            failed.wait_for(timeout=30_000)
        finally:
            page.screenshot(path=f"{os.environ.get('URISK_TEST_SHOTS', tmp_path)}/{module}.png")
        assert [line.rstrip() for line in failed.inner_text().splitlines()] == TWO_LINES
        seen = page.evaluate("[...window.seen]")
        assert [text for text in seen if text.strip() in ("one", "one two", "one two three")]
        assert outputs(2).last.inner_text().count(ANSWER) == 1
        assert page.locator(".jp-Notebook").inner_text().count(ANSWER) == 1
        assert outputs(3).locator("table").count() >= 1
        assert "legal" in outputs(3).last.inner_text()
        cells.nth(4).locator(".urisk-dashboard").first.wait_for(timeout=10_000)
        assert outputs(6).count() == 0
        run(7, 7)
        outputs(7).filter(has_text="word word word").wait_for(timeout=20_000)
        page.locator("[data-jp-item-name=interrupt]").first.click()
        outputs(7).filter(has_text="KeyboardInterrupt: you stopped the answer").wait_for(
            timeout=20_000
        )
        browser.close()
