"""
The site of the documentation: it builds without a warning, its links lead somewhere, it asks no
other host for anything, and its reference has all that the code has.
"""

import contextlib
import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

import urisk_nb
from browser import CHROMIUM, FLAGS
from harness import ROOT
from urisk_nb import errors
from urisk_nb.cli import COMMANDS
from urisk_nb.notebook.magics import USAGES
from urisk_nb.risk.row_warnings import WARNINGS
from urisk_nb.settings import Settings

HAND_WRITTEN = sorted(
    path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
    for path in ROOT.glob("docs/**/*.md")
)
NOTEBOOKS = sorted(path.stem for path in ROOT.glob("notebooks/*.ipynb"))
MADE = [
    *(f"notebooks/{name}.html" for name in NOTEBOOKS if name != "01_quickstart"),
    *(f"project/{name}.html" for name in ("architecture", "changelog", "contributing")),
    *("project/security.html", "project/training.html"),
    *(f"reference/{name}.html" for name in ("python", "modules", "magics", "commands")),
    *(f"reference/{name}.html" for name in ("settings", "columns", "errors")),
]
# What is left where Markdown was not understood: a link, a table, a list, emphasis, a directive
LEFT_OVER = re.compile(r"\]\(|\|\s*:?-{3}|\*\*\w|^\s*[-*] \w|^::: |\\\(|\$\$|data-output")


class Page(HTMLParser):
    """Anchors, links and the text outside of code of one page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.texts, self._code = set(), [], [], 0
        self.markup = path.read_text(encoding="utf-8")
        self.feed(self.markup)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links += [
            (tag, given.get("rel"), given[name]) for name in ("href", "src") if given.get(name)
        ]
        self._code += tag in ("pre", "code", "script", "style")

    def handle_endtag(self, tag):
        self._code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data):
        if not self._code:
            self.texts.append(data)


def build(folder):
    """Build the site; warnings are errors by its own configuration."""
    return subprocess.run(
        # --quiet would hide warnings from mkdocs itself, and let them pass
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, as files."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "WARNING" not in said
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Each page of the site by its path."""
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.fixture
def reference(site):
    """The page of the reference of this name."""
    return lambda name: Page(site / "reference" / f"{name}.html")


def of_the_site(test):
    """A test of the built site; the first one waits for it."""
    return pytest.mark.slow(pytest.mark.timeout(180)(test))


@of_the_site
def test_every_page_is_there_and_in_the_menu(site):
    """Those that people wrote and those that are made; no other."""
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert built == {*HAND_WRITTEN, *MADE}
    menu = {target.partition("#")[0] for _, _, target in Page(site / "index.html").links}
    assert built - {"index.html"} <= menu


@of_the_site
def test_no_link_is_dead(site, pages):
    """Each link inside the site names a file that is there, and an anchor that it has."""
    dead = []
    for path, page in pages.items():
        for _, _, target in page.links:
            name, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target) or path.name == "404.html":
                continue
            aim = (path.parent / name.partition("?")[0]).resolve() if name else path
            aim = aim / "index.html" if aim.is_dir() else aim
            has_anchor = not anchor or aim not in pages or anchor in pages[aim].anchors
            if not aim.exists() or not has_anchor:
                dead.append((path.relative_to(site).as_posix(), target))
    assert dead == []


@of_the_site
def test_no_markdown_is_left(site, pages):
    """A table, a list or a formula that was not understood would stand in the page as typed."""
    left = [
        (path.relative_to(site).as_posix(), text.strip()[:80])
        for path, page in pages.items()
        for text in page.texts
        if LEFT_OVER.search(text)
    ]
    assert left == []


@of_the_site
def test_nothing_is_loaded_from_elsewhere(pages):
    """Scripts, styles, fonts and pictures are files of the site; other hosts are links to click."""
    for path, page in pages.items():
        loaded = [target for tag, _, target in page.links if tag != "a"]
        assert not [one for one in loaded if re.match(r"(https?:)?//", one)], path.name


@contextlib.contextmanager
def served(folder):
    """The address of a web server over the folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@of_the_site
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_without_network_shows_pages_and_formulas(site, scheme):
    """
    No request goes to another host. A formula has a place on the page, in the text's color, and
    the search finds a word.
    """
    from playwright.sync_api import sync_playwright

    with served(site) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(color_scheme=scheme)
        elsewhere = []

        def keep_inside(route):
            if route.request.url.startswith(address):
                route.continue_()
            else:
                elsewhere.append(route.request.url)
                route.abort()

        context.route("**/*", keep_inside)
        page = context.new_page()
        for name in ("index", "tutorial", "reference/python", "metrics"):
            page.goto(f"{address}/{name}.html", wait_until="networkidle")
        formulas = page.locator("math")
        boxes = [formula.bounding_box() for formula in formulas.all()]
        assert min(box["width"] for box in boxes) > 3
        assert max(box["width"] for box in boxes) > 150  # expected shortfall, in one line
        color = "one => getComputedStyle(one).color"
        assert formulas.first.evaluate(color) == page.locator("article p").first.evaluate(color)
        page.locator("[data-md-toggle=search]").evaluate("box => box.click()")
        page.keyboard.type("Cornish")
        page.get_by_text("Portfolio").filter(visible=True).first.wait_for()
        page.locator(".md-search-result__item").first.wait_for()
        browser.close()
    assert elsewhere == []


# What the reference has ---------------------------------------------------------------------------


def codes(page):
    """The pieces of code in the markup of a page."""
    return set(re.findall(r"<code>([^<]+)</code>", page.markup))


@of_the_site
@pytest.mark.parametrize(
    ("page", "parsers"),
    [
        ("magics", {usage: arguments for usage, _, arguments in USAGES.values()}),
        ("commands", {f"urisk {name}": found for name, (_, _, found) in COMMANDS.items()}),
    ],
)
def test_every_option_has_its_row_and_every_row_its_option(reference, page, parsers):
    """Under the heading of each magic and command stand its own options, and no other."""
    parts = re.split(r'<h2 id="[^"]+">(.*?)<a class="headerlink', reference(page).markup)[1:]
    shown = {
        head: re.findall(r"<tr>\s*<td><code>([^<]+)</code></td>", body)
        for head, body in zip(parts[::2], parts[1::2], strict=True)
    }
    assert shown == {name: list(arguments) for name, arguments in parsers.items()}


@of_the_site
def test_every_error_has_its_part_and_every_part_its_error(reference):
    markup = reference("errors").markup
    assert re.findall(r'<h2 id="\w+">(\w+)<', markup) == errors.__all__
    texts = re.findall(r"<h2 id=.*?</h2>\s*<p>(.*?)</p>", markup, re.DOTALL)
    assert len(texts) == len(errors.__all__)


@of_the_site
def test_every_setting_has_its_row_and_every_row_its_setting(reference):
    """Those that are no field are read before the settings are."""
    rows = re.findall(
        r"<tr>\s*<td><code>(\w+)</code></td>.*?</tr>", reference("settings").markup, re.DOTALL
    )
    fields = [field.alias for field in Settings.model_fields.values()]
    others = ("URISK_STATIC", "URISK_JOURNAL", "URISK_SYSTEM_PROMPT", "URISK_WORKERS")
    assert sorted(rows) == sorted([*fields, *others])
    markup = reference("settings").markup
    assert all(f"<code>{name}</code>" in markup for name in Settings.model_fields)


@of_the_site
def test_every_flag_has_its_row_and_every_row_its_flag(reference):
    flags = reference("columns").markup.partition('<h2 id="flags">')[2]
    assert re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", flags) == list(WARNINGS)


@of_the_site
def test_every_public_name_is_described(reference):
    """`__all__` of the package, with signature and docstring."""
    page = reference("python")
    for name in urisk_nb.__all__:
        if name != "__version__":
            assert any(anchor.endswith(f".{name}") for anchor in page.anchors), name


# What the pages name ------------------------------------------------------------------------------

PROSE = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
# Of other programs, and what only tests read
FOREIGN_VARIABLES = {
    *("OLLAMA_HOST", "OLLAMA_NO_CLOUD", "OLLAMA_NUM_PARALLEL", "OLLAMA_MODELS", "OLLAMA_DEBUG"),
    *("URISK_SERVICE_TOKEN", "URISK_TEST_CHAOS"),
}
ours = [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in PROSE]


@pytest.mark.parametrize("path", ours)
def test_settings_that_pages_name_exist(path):
    known = {field.alias for field in Settings.model_fields.values()} | FOREIGN_VARIABLES
    named = set(re.findall(r"\b(?:OLLAMA|URISK)_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    assert named <= known | {
        *("URISK_STATIC", "URISK_JOURNAL", "URISK_SYSTEM_PROMPT", "URISK_WORKERS")
    }


# Options of other programs that pages show
FOREIGN_OPTIONS = {
    *("--add-host", "--alias", "--allow-root", "--check", "--chown", "--coalesce-streams"),
    *("--create-home", "--env-file"),
    *("--ExecutePreprocessor", "--execute", "--existing", "--find-links", "--help", "--host"),
    *("--hypothesis-profile", "--init", "--inplace", "--ip", "--n-gpu-layers", "--no-browser"),
    *("--no-deps", "--no-index", "--parallel", "--pip", "--port", "--python", "--rm", "--to"),
    *("--without-pip",),
}
# Options of the programs in benchmarks and training
SCRIPT_OPTIONS = set(
    re.findall(
        r'add_argument\(\s*"(--[\w-]+)"',
        "".join(
            path.read_text(encoding="utf-8")
            for folder in ("benchmarks", "training")
            for path in (ROOT / folder).glob("*.py")
        ),
    )
)


@pytest.mark.parametrize("path", ours)
def test_options_that_pages_name_exist(path):
    """In code: an option of a magic, of a command, of a script of the project, or of others."""
    magics = {option for _, _, arguments in USAGES.values() for option in arguments}
    commands = {option for _, _, arguments in COMMANDS.values() for option in arguments}
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", path.read_text(encoding="utf-8")))
    assert named <= magics | commands | SCRIPT_OPTIONS | FOREIGN_OPTIONS


SOURCES = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("urisk_nb/**/*.py"))


@pytest.mark.parametrize("path", ours)
def test_classes_and_errors_that_pages_name_exist(path):
    """A renamed error is renamed in the pages, too."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", text))
    unknown = {name for name in named if f"class {name}" not in SOURCES}
    assert unknown <= {"DataFrame", "LocalCluster"}


def test_every_error_is_explained_beside_the_code():
    """In a docstring of its own, not that of its base."""
    for name in errors.__all__:
        assert getattr(errors, name).__dict__["__doc__"], name


TESTS = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))


def test_privacy_names_tests_that_exist():
    """Each claim of the table has a test, and each test is there."""
    page = (ROOT / "docs/privacy.md").read_text(encoding="utf-8")
    rows = page.partition("<!-- tests:")[2].strip().splitlines()[3:]
    assert len(rows) > 8
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        for name in named:
            assert f"def {name}(" in TESTS, name


def test_modules_that_people_import_are_in_the_reference():
    """What pages and notebooks import from a module of ours is described."""
    texts = [path.read_text(encoding="utf-8") for path in (*PROSE, *ROOT.glob("notebooks/*.ipynb"))]
    modules = {
        module for text in texts for module in re.findall(r"from (urisk_nb\.[\w.]+) import", text)
    }
    source = (ROOT / "docs/generate/reference.py").read_text(encoding="utf-8")
    own_page = {"urisk_nb.errors"}
    assert {name for name in modules if f'"{name}"' not in source} <= {"urisk_nb.risk", *own_page}


def test_the_example_of_a_taxonomy_runs(monkeypatch):
    """As far as a model is needed: the columns of the table are those of the categories."""
    from urisk_nb.session import open_run

    monkeypatch.setattr(
        urisk_nb, "assess", lambda *a, **k: open_run(*a, **k).table(), raising=False
    )
    page = (ROOT / "docs/howto/your-own-model.md").read_text(encoding="utf-8")
    code = page.partition("<!-- example:")[2].partition("```python\n")[2].partition("```")[0]
    namespace = {}
    exec(code, namespace)
    ratings = [name for name in namespace["table"].columns if name.startswith("r_")]
    assert ratings == ["r_supply", "r_rates"]


# Pages that are put together ----------------------------------------------------------------------


@pytest.fixture
def generate():
    """The modules of docs/generate, as mkdocs finds them."""
    folder = str(Path(ROOT, "docs/generate"))
    sys.path.insert(0, folder)
    try:
        import formulas
        import repository

        return formulas, repository
    finally:
        sys.path.remove(folder)


def test_links_lead_to_the_pages_of_the_site(generate):
    """A file of the repository is a page, its page's title its name; code stays as it is."""
    _, repository = generate
    text = (
        "[docs/metrics.md](docs/metrics.md#inputs), [Settings](README.md#settings), `[a](b.md)`, "
        "[nine](notebooks/04_portfolio.ipynb), [code](urisk_nb/cli.py), [web](https://a.example)"
    )
    assert repository.relink(text, "README.md", "howto/docker.md") == (
        "[Inputs and computed columns](../metrics.md#inputs), "
        "[Settings](../reference/settings.md), `[a](b.md)`, "
        "[nine](../notebooks/04_portfolio.md), code, [web](https://a.example)"
    )


def test_a_section_that_is_gone_is_an_error(generate):
    """A heading of the README that is renamed ends the build; no page goes without a word."""
    _, repository = generate
    with pytest.raises(LookupError, match="no section #gone"):
        repository.expand_page("<!-- include: README.md#gone -->", "docs/a.md", "a.md")


def test_a_formula_is_mathml(generate):
    """With the signs of HTML as the page has them."""
    formulas, _ = generate
    page = '<p>a <span class="arithmatex">\\(T &lt; 30\\)</span></p>'
    shown = formulas.render_formulas(page)
    assert shown.startswith("<p>a <math")
    assert "<mo>&#x0003C;</mo>" in shown or "<mo>&lt;</mo>" in shown
    assert "arithmatex" not in shown
