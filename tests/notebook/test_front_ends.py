"""
Real runs in the front ends that people have: what shows updates, what only prints, and what runs a
notebook unattended. docs/notebook.md has the matrix.
"""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from browser import CHROMIUM, FLAGS, jupyter_server, write_notebook
from harness import ANSI, ROOT, FakeOllama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ANSWER = "one two three four five six"
TWO_LINES = [
    "ServerInternalError: the server answered with HTTP 500: something odd",
    "  Fix: ask again; if it goes on, look at the server's log",
]
SCENARIO = {
    "slots": 4,
    "rules": [
        {"contains": "fined", "answer": {"risk": "legal", "severity": 3}},
        {"contains": "odd", "status": 500, "error": "something odd"},
        {"contains": "there", "answer": ANSWER, "token_ms": 20},
        {"contains": "slowly", "answer": ANSWER, "token_ms": 300},
        {"contains": "long", "answer": "word " * 2000, "token_ms": 20},
        {"contains": "", "answer": {"risk": "none", "severity": 0}},
    ],
}
SETUP = """%load_ext urisk_nb
import pandas as pd
news = pd.DataFrame([("AAA", "It was fined by the court.")], columns=["ticker", "text"])
odd = pd.DataFrame([("AAA", "An odd sentence.")], columns=["ticker", "text"])"""
GOOD = [
    SETUP,
    "%urisk_start",
    "%%ask\nAre you there",
    "%%risk --evidence news\nAAA",
]
BAD = [*GOOD, "%%risk --evidence odd\nAAA", "print('never', 'here')"]
KERNEL = {
    "kernelspec": {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
}


def needs(module):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("front_ends") / "scenario.json"
    path.write_text(json.dumps(SCENARIO))
    started = FakeOllama("--scenario", str(path))
    yield started
    started.stop()


@pytest.fixture
def env(server, tmp_path):
    """The environment of a front end; a fault of the server isn't waited out."""
    return {
        **os.environ,
        "OLLAMA_URL": server.url,
        "URISK_OUTAGE_WAIT": "0",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
    }


@pytest.fixture
def books(tmp_path):
    """A notebook whose cells succeed, and one whose last run fails."""
    for name, cells in (("good", GOOD), ("bad", BAD)):
        write_notebook(tmp_path / f"{name}.ipynb", cells, KERNEL)
    return tmp_path


def execute(env, folder, *words):
    return subprocess.run(
        [sys.executable, "-m", *words], env=env, cwd=folder, capture_output=True, text=True
    )


def outputs_of(path):
    """The outputs of each cell of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def check_good(cells):
    """A stored notebook has the answer once, whole, and the table; no progress and no stream."""
    _, started, asked, risks = cells[:4]
    said = ["".join(one["data"]["text/plain"]) for one in (*started, *asked) if one["data"]]
    assert [text for text in said if "is ready" in text] == [said[-2]]
    assert said[-1].startswith(f"{ANSWER}\n\nllama3.1:latest")
    assert [text for text in said[:-2] if text] == []
    tables = ["".join(one["data"]["text/html"]) for one in risks]
    assert [html for html in tables if html][-1].count("urisk-table") >= 1
    assert "Fined" in tables[-1] or "fined" in tables[-1]


def check_bad(cells):
    """What came before is stored; the error is one message of two lines, the last one of all."""
    *good, failed, never = cells
    check_good(good)
    kinds = [one["output_type"] for one in failed]
    assert (kinds[-1], kinds.count("error"), "stream" in kinds) == ("error", 1, False)
    assert [ANSI.sub("", line) for line in failed[-1]["traceback"]] == TWO_LINES
    assert never == []


def check_two_lines(text):
    """The error stands there as two lines, and no stack of ours does."""
    plain = ANSI.sub("", text)
    assert "\n".join(TWO_LINES) in plain
    assert "urisk_nb/" not in plain
    assert "never here" not in plain


@needs("papermill")
def test_papermill(books, env):
    """The notebook that it writes has everything up to the error, and it exits with 1."""
    done = execute(env, books, "papermill", "bad.ipynb", "out.ipynb")
    assert done.returncode == 1, done.stderr
    check_two_lines(done.stderr)
    check_bad(outputs_of(books / "out.ipynb"))


@needs("nbconvert")
def test_nbconvert(books, env):
    """`jupyter nbconvert --execute` writes the good notebook, and exits with 1 at the other."""
    words = ["nbconvert", "--execute", "--inplace", "--to", "notebook", "good.ipynb", "bad.ipynb"]
    done = execute(env, books, *words)
    assert done.returncode == 1, done.stderr
    check_good(outputs_of(books / "good.ipynb"))
    check_two_lines(done.stderr)


PYTEST = ["pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]


@needs("nbmake")
def test_nbmake(books, env):
    """`pytest --nbmake` fails the notebook, and keeps what came before."""
    done = execute(env, books, *PYTEST, "--nbmake", "--overwrite", "bad.ipynb")
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
    check_two_lines(done.stdout)
    check_bad(outputs_of(books / "bad.ipynb"))


@needs("nbval")
def test_nbval(books, env):
    """`pytest --nbval-lax` passes each cell but the one whose run fails and those behind it."""
    done = execute(env, books, *PYTEST, "--nbval-lax", "--nbval-current-env", "bad.ipynb")
    assert done.returncode == 1, done.stdout
    assert re.findall(r"^FAILED (.*?)(?: - .*)?$", done.stdout, re.MULTILINE) == [
        "bad.ipynb::Cell 4"
    ]
    check_two_lines(done.stdout)


SCRIPT = [
    SETUP,
    "%urisk_start",
    "answer = %ask Are you there",
    "%risk AAA --evidence news",
    "print('so', 'far')",
]


def write_script(folder, *lines):
    (folder / "script.ipy").write_text("\n".join([*SCRIPT, *lines]) + "\n")


def test_a_script_of_ipython(env, tmp_path):
    """
    `ipython script.ipy > log`: the answer once, no progress; a run that fails ends it with two
    lines and exit code 1.
    """
    write_script(tmp_path)
    done = execute(env, tmp_path, "IPython", "script.ipy")
    assert (done.returncode, done.stderr) == (0, "")
    start, *rest = done.stdout.splitlines()
    assert start.endswith("s).")
    assert "is ready" in start
    assert rest[:2] == [ANSWER, ""]
    assert "\r" not in done.stdout
    assert done.stdout.count(ANSWER) == 1
    assert rest[-1] == "so far"
    write_script(tmp_path, "%risk AAA --evidence odd", "print('never', 'here')")
    done = execute(env, tmp_path, "IPython", "script.ipy")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) <= 2
    check_two_lines(done.stdout + done.stderr)
    assert [ANSI.sub("", line) for line in done.stdout.splitlines()][-2:] == TWO_LINES


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self):
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *words):
        pass


def test_a_script_whose_server_answers_500_to_everything(env, tmp_path):
    """The start fails the script, in two lines."""
    with HTTPServer(("127.0.0.1", 0), Broken) as broken:
        thread = threading.Thread(target=broken.serve_forever)
        thread.start()
        write_script(tmp_path)
        url = f"http://127.0.0.1:{broken.server_port}"
        done = execute({**env, "OLLAMA_URL": url}, tmp_path, "IPython", "script.ipy")
        broken.shutdown()
        thread.join()
    lines = (done.stdout + done.stderr).splitlines()
    assert (done.returncode, len(lines)) == (1, 2), lines
    assert "500" in lines[0]
    assert lines[1].startswith("  Fix: ")


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
            timeout=20,
            dimensions=(40, 100),
        )
        self.number = 1
        self.child.expect_exact("In [1]: ")

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
