"""
The quickstart in a real JupyterLab in Chromium: opened, run from top to bottom, and looked at by a
program.
"""

import os
import shutil

import pytest

from browser import CHROMIUM, FLAGS, jupyter_lab, set_theme, write_notebook
from fake_ollama_env import FakeOllamaEnv, gone
from harness import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def jupyter(tmp_path, fake_ollama):
    """A JupyterLab of its own, whose kernels find the fake Ollama."""
    shutil.copy(ROOT / "notebooks/01_quickstart.ipynb", tmp_path)
    with jupyter_lab(tmp_path, {"OLLAMA_URL": fake_ollama.url}) as (url, _):
        yield url


@pytest.mark.filterwarnings("default")
def test_the_quickstart_in_jupyterlab(jupyter, tmp_path):
    """
    Restart and Run All in JupyterLab, light and dark: the table stands there, who labeled it
    and its sentences under it, no error.
    """
    from playwright.sync_api import sync_playwright

    shots = os.environ.get("URISK_TEST_SHOTS", str(tmp_path))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 4200})
        try:
            run_all(page, f"{jupyter}/lab/tree/01_quickstart.ipynb")
        finally:
            page.screenshot(path=f"{shots}/light.png")
        tables = page.locator(".jp-OutputArea-output .urisk-table")
        judged = tables.filter(has_text="labeled by").last.inner_text()
        assert "labeled by llama3.1" in judged
        assert "The European Commission fined Google 4.34 billion euros" in judged
        assert (
            page.locator(
                ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"
            ).count()
            == 0
        )
        set_theme(tmp_path / "settings", "JupyterLab Dark")
        page.reload()
        page.wait_for_selector(".urisk-table", timeout=60_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=f"{shots}/dark.png")
        browser.close()


CELLS = [
    "%load_ext urisk_nb\n%urisk_start",
    "%%ask\nAre you there?",
    "%urisk_status",
    "print('run', 'to the end')",
]


@pytest.mark.filterwarnings("default")
def test_restart_and_run_all_in_jupyterlab(tmp_path):
    """
    The button keeps the server that the kernel started, warm; the end of JupyterLab by force ends
    it.
    """
    from playwright.sync_api import sync_playwright

    shots = os.environ.get("URISK_TEST_SHOTS", str(tmp_path))
    lab = FakeOllamaEnv(tmp_path, None)
    kernel = {
        "kernelspec": {
            "name": "python3",
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
        }
    }
    write_notebook(lab.folder / "work" / "lifecycle.ipynb", CELLS, kernel)
    env = {**lab.env, "PATH": f"{lab.env['PATH']}:{os.environ['PATH']}", "URISK_KEEP_WARM": "20"}
    with jupyter_lab(lab.folder / "work", env) as (url, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        run_all(page, f"{url}/lab/tree/lifecycle.ipynb", "run to the end")
        pids = lab.processes()
        page.get_by_role("menuitem", name="Edit", exact=True).click()
        page.get_by_text("Clear Outputs of All Cells").click()
        restart_and_run_all(page, "run to the end")
        page.screenshot(path=f"{shots}/restarted.png")
        assert lab.processes() == pids
        assert lab.counters()["loads"] == 1
        process.kill()
        gone(pids, 5)
        browser.close()


def run_all(page, url, last="The server keeps running"):
    """Open the notebook, restart the kernel, run all cells, and wait for the last one's output."""
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=60_000)
    restart_and_run_all(page, last)


def restart_and_run_all(page, last):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Restart Kernel and Run All Cells").click()
    page.locator(".jp-Dialog-button.jp-mod-accept").last.click()
    page.locator(".jp-OutputArea-output", has_text=last).first.wait_for(timeout=60_000)
