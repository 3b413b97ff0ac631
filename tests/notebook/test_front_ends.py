"""
Real runs in what executes a notebook or a script unattended. docs/notebook.md has the matrix; what
people use by hand is in test_front_ends_by_hand.py.
"""

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from browser import write_notebook
from front_ends import (
    ANSWER,
    BAD,
    GOOD,
    KERNEL,
    SETUP,
    TWO_LINES,
    needs,
)
from harness import ANSI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


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
