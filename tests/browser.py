"""
A real JupyterLab, Chromium to look at it, and a notebook in it as its reader sees and uses it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

from harness import eventually, free_port

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def answers(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return reply.status == 200
    return False


def jupyter_lab(folder, env):
    """A JupyterLab over the folder: its address and its process."""
    return jupyter_server("jupyterlab", folder, env)


@contextlib.contextmanager
def jupyter_server(module, folder, env):
    """A JupyterLab or a Notebook over the folder: its address and its process."""
    port = free_port()
    env = {
        **os.environ,
        **env,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    words = [
        "-m",
        module,
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
    ]
    with (folder / "jupyter.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=log, stderr=log, env=env, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(f"{url}/api"), 60, module)
        yield url, process
    finally:
        # The server takes its kernels along; its own session is ended in any case.
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def set_theme(settings, name):
    """As the settings editor would: JupyterLab reads the file when a page is loaded."""
    folder = settings / "@jupyterlab/apputils-extension"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "themes.jupyterlab-settings").write_text(json.dumps({"theme": name}))


# Ends a notebook's kernel. JupyterLab wants its own token back, against requests from other pages.
END_KERNEL = """async name => {
  const headers = {'X-XSRFToken': (document.cookie.match(/_xsrf=([^;]+)/) || [])[1]};
  for (const session of await (await fetch('/api/sessions')).json()) {
    if (session.path !== name) continue;
    await fetch('/api/sessions/' + session.id, {method: 'DELETE', headers});
  }
}"""


def write_notebook(path, sources, metadata):
    """Write a notebook with a code cell for each source."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(sources)
    ]
    path.write_text(
        json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    )


class Book:
    """A notebook in JupyterLab with a kernel of its own, and what a reader of it sees and does."""

    def __init__(self, page, url, folder, name):
        self.page, self.url, self.name = page, url, name
        kernel = {
            "kernelspec": {
                "name": "python3",
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
            }
        }
        write_notebook(folder / f"{name}.ipynb", [""], kernel)
        self.open()

    def open(self):
        self.page.goto(f"{self.url}/lab/tree/{self.name}.ipynb?reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        self.idle()

    def idle(self):
        self.page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=60_000)

    @property
    def cells(self):
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    @property
    def places(self):
        return self.page.locator(".urisk-dashboard")

    def start(self, code):
        """Type it into the last cell, which is empty, and run it; another empty one follows."""
        number = self.cells.count() - 1
        self.cells.nth(number).locator(".cm-content").click()
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")
        return self.cells.nth(number)

    def run(self, code):
        """The same, until it has ended."""
        cell = self.start(code)
        cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]:")).wait_for(timeout=30_000)
        return cell

    def value(self, expression):
        """The value of an expression in the kernel, by way of JSON."""
        cell = self.run(f"import json; print(json.dumps({expression}))")
        return json.loads(cell.locator(".jp-OutputArea-output").inner_text(timeout=5000))

    def button(self, name):
        return self.places.first.locator("button", has_text=re.compile(rf"^\s*{name}$")).first

    def confirm(self, name):
        """Press the button that says yes to what was asked."""
        self.places.first.locator("button.mod-danger", has_text=name).click()

    def ready(self, within_s=10):
        self.word("Ready", within_s)

    def word(self, word, within_s=10):
        """Until the lamp's word is this one."""
        self.places.first.locator("strong").first.filter(has_text=re.compile(f"^{word}$")).wait_for(
            timeout=1000 * within_s
        )

    def delete(self, cell):
        cell.locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("d")
        self.page.keyboard.press("d")

    def clear(self):
        """Delete all cells; an empty one is left."""
        # By the menus: JupyterLab forgets the first of two keys after a second, and a busy machine
        # may take longer between them.
        self.cells.last.locator(".jp-InputPrompt").click()
        self.menu("Edit", "Select All Cells")
        self.menu("Edit", "Delete Cell")
        self.page.wait_for_function(
            "document.querySelectorAll('.jp-Notebook .jp-CodeCell').length === 1"
        )

    def close(self):
        """End the kernel and close the page."""
        self.page.evaluate(END_KERNEL, f"{self.name}.ipynb")
        self.page.close()

    def save(self):
        self.page.keyboard.press("Control+s")
        self.page.locator(".lm-TabBar-tab.lm-mod-current.jp-mod-dirty").wait_for(state="detached")

    def menu(self, menu, entry):
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(".lm-Menu-item", has_text=re.compile(f"^{entry}")).first.click()
