"""
Answers that a model could write to harm their reader, in a real JupyterLab in Chromium: live, after
save and reload, and in a notebook that is not trusted.
"""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from answer_page import ALLOWED
from browser import CHROMIUM, FLAGS, Book, jupyter_lab, set_theme
from harness import FakeOllama
from hostile_answers import EVIL, HOSTILE, LONG

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.filterwarnings("default"),
]

MAX_OUTPUTS = 40  # JupyterLab shows 50 of a cell
ASK_SOME = """
for number in {numbers}: get_ipython().run_cell_magic("ask", "", f"case {{number}}:")
"""
# JupyterLab sets mathematics and runs scripts: what follows would else prove nothing.
CONTROL = "from IPython.display import HTML; HTML('<p class=proof>$x^2$</p>{script}')"
SCRIPT = "<script>window.proof=1</script>"
ALLOWED_TAGS = set(ALLOWED)
ALLOWED_ATTRIBUTES = set.union(*ALLOWED.values()) | {"target"}  # which JupyterLab gives links
NICE = """## Risks of a chip maker

It trades at **$5 to $7** a share; a loss of $1.2 bn would be `3 %` of sales.

| risk | severity | cost |
|:-----|:--------:|-----:|
| Supply: one fab in Taiwan | high | $1,200 m |
| Export rules | *medium* | $300 m |
| A ~~patent~~ licence suit | low | $45 m |

1. **Supply.** One foundry makes most chips.
   - Second source: none before 2027
   - Stock: 60 days
2. **Customers.** Four of them buy 46 %.

> Concentration risk is "significant", the filing says.

### How to check it

```python
returns = prices["NVDA"].pct_change()
var_95 = -returns.quantile(0.05)  # 1 day
print(f"VaR: {var_95:.2%} of $1,000,000")
```

See [the filing](https://www.sec.gov/edgar) or <https://www.sec.gov>.
"""


def write_scenario(folder, answers):
    """A server that gives each case its answer, in two pieces."""
    rules = [
        {
            "contains": f"case {number}:",
            "answer": [text[: len(text) // 2], text[len(text) // 2 :]],
            "token_ms": 5,
        }
        for number, text in enumerate(answers)
    ]
    path = folder / "scenario.json"
    path.write_text(json.dumps({"rules": rules}))
    return path


@pytest.fixture
def jupyter(tmp_path):
    """A browser, a JupyterLab, and the answers that its kernels get."""
    from playwright.sync_api import sync_playwright

    work = tmp_path / "work"
    work.mkdir()
    answers = [*HOSTILE.values(), NICE, LONG["one line"]]
    server = FakeOllama("--scenario", str(write_scenario(tmp_path, answers)))
    try:
        with jupyter_lab(work, {"OLLAMA_URL": server.url}) as (url, _), sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield browser, url, work
            browser.close()
    finally:
        server.stop()


def check_outputs(page):
    """Only what an answer may hold is there, nothing ran, and no dollar became mathematics."""
    page.wait_for_selector(".proof mjx-container", timeout=30_000)
    page.wait_for_timeout(500)
    assert page.evaluate("() => window.owned") is None
    assert page.locator("mjx-container").count() == page.locator("p.proof").count()
    answers = page.locator(".jp-OutputArea-output .mathjax_ignore")
    assert answers.count() >= len(HOSTILE)
    inside = "[...document.querySelectorAll('.mathjax_ignore')]"
    found = page.evaluate(
        f"""() => {inside}.flatMap(root => [...root.querySelectorAll('*')].flatMap(
          one => [one.localName, ...one.getAttributeNames().map(name => '@' + name)]))"""
    )
    assert {one for one in found if not one.startswith("@")} <= ALLOWED_TAGS
    assert {one[1:] for one in found if one.startswith("@")} <= ALLOWED_ATTRIBUTES
    links = page.evaluate(
        f"() => {inside}.flatMap(r => [...r.querySelectorAll('a')].map(a => a.href))"
    )
    assert {urlsplit(link).scheme for link in links} <= {"", "http", "https", "mailto"}
    assert "It paid $5" in "".join(answers.all_text_contents())
    # A paragraph in a page's own place, such as that of a heading behind closing tags
    assert page.locator("h1:has-text('outside'), #x, iframe[src*='evil']").count() == 0


def check_converted(browser, notebook):
    """The page that nbconvert makes runs and fetches nothing of an answer."""
    words = [sys.executable, "-m", "nbconvert", "--to", "html", str(notebook)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("http*://**", lambda route: route.abort())  # its own scripts are on a CDN
    page.goto(notebook.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    page.wait_for_timeout(500)
    assert page.evaluate("() => window.owned") is None
    assert page.locator(".mathjax_ignore").count() >= len(HOSTILE)
    assert [one for one in asked if EVIL in one] == []
    page.close()


def test_no_answer_harms_its_reader(jupyter):
    """No script, no dialog, no request to elsewhere; live, reloaded and not trusted."""
    browser, url, work = jupyter
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(20_000)
    asked, dialogs = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    book = Book(page, url, work, "hostile")
    book.run("%load_ext urisk_nb\n%urisk_start")
    book.run(CONTROL.format(script=SCRIPT))
    assert page.evaluate("() => window.proof") == 1
    book.run(CONTROL.format(script=""))
    for first in range(0, len(HOSTILE), MAX_OUTPUTS):
        book.run(ASK_SOME.format(numbers=range(first, min(first + MAX_OUTPUTS, len(HOSTILE)))))
    check_outputs(page)
    book.save()
    page.reload()
    book.idle()
    check_outputs(page)
    notebook = json.loads((work / "hostile.ipynb").read_text())
    notebook["cells"][0]["source"] = "# not as it was signed"
    (work / "foreign.ipynb").write_text(json.dumps(notebook))
    page.goto(f"{url}/lab/tree/foreign.ipynb?reset")
    check_outputs(page)
    check_converted(browser, work / "hostile.ipynb")
    assert dialogs == []
    assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    # What is asked of JupyterLab are its own files, and nothing that an answer names
    assert [one for one in asked if EVIL in one or "/x." in one or "hostname" in one] == []
    page.close()


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_nice_answer_looks_so(jupyter, tmp_path, theme):
    """A heading, a table, a list, code and dollars; pictures where somebody wants to look."""
    browser, url, work = jupyter
    set_theme(work / "settings", theme)
    page = browser.new_page(viewport={"width": 1100, "height": 1300})
    book = Book(page, url, work, "nice")
    book.run("%load_ext urisk_nb\n%urisk_start")
    cell = book.run(f"%%ask\ncase {len(HOSTILE)}:")
    answer = cell.locator(".mathjax_ignore")
    answer.locator("table").wait_for()
    page.wait_for_timeout(1000)
    assert "It trades at $5 to $7 a share; a loss of $1.2 bn would be 3 % of sales." in (
        answer.inner_text()
    )
    assert answer.locator("mjx-container").count() == 0
    colors = answer.locator("pre").evaluate(
        "one => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]"
    )
    assert colors[0] != colors[1]
    if folder := os.environ.get("URISK_TEST_SHOTS"):
        page.screenshot(path=f"{folder}/answer-{theme.split()[1].lower()}.png")
    page.close()


def test_two_megabytes_in_one_line_do_not_hang_it(jupyter):
    """The line under them says that they are plain text, and the next cell runs."""
    browser, url, work = jupyter
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    book = Book(page, url, work, "long")
    book.run("%load_ext urisk_nb\n%urisk_start")
    cell = book.run(f"%%ask answer\ncase {len(HOSTILE) + 1}:")
    cell.get_by_text("shown as plain text, since it has more than").wait_for(timeout=60_000)
    assert book.value("len(answer)") == 2_000_000
    page.close()
