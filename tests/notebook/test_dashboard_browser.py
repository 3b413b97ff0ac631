"""
The dashboard in a real JupyterLab in Chromium: looked at, clicked, reloaded, shut down; with a
server of real processes behind it.
"""

import contextlib
import os
import re
import signal
import time

import pytest

from browser import CHROMIUM, FLAGS, Book, jupyter_lab, set_theme
from fake_ollama_env import FakeOllamaEnv
from harness import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

HOSTILE = '<script>window.hit=1</script><img src=x onerror="window.hit=1">'
RULES = [
    {"contains": "slow", "answer": "word " * 200, "first_ms": 700, "token_ms": 20},
    {"contains": "hostile", "answer": HOSTILE},
    {"contains": "reset", "answer": ["one ", "two"], "ends": "reset"},
]
START = """%load_ext urisk_nb
%urisk_start
from urisk_nb import LLMManager, event_loop
m = LLMManager.get_instance()"""


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """One JupyterLab and one browser: the page, the address, the fake Ollama."""
    from playwright.sync_api import sync_playwright

    lab = FakeOllamaEnv(tmp_path_factory.mktemp("dashboard"), None)
    lab.plan(rules=RULES, load_ms=300, token_ms=2, first_ms=20)
    env = {**lab.env, "PATH": f"{lab.env['PATH']}:{os.environ['PATH']}"}
    with jupyter_lab(lab.folder / "work", env) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser, url, lab
        browser.close()


@pytest.fixture
def lab(jupyter):
    return jupyter[2]


def opened(jupyter, name):
    """A notebook with a kernel of its own."""
    browser, url, lab = jupyter
    page = browser.new_page(viewport={"width": 1300, "height": 1900})
    page.set_default_timeout(10_000)
    page.add_init_script(WORDS)
    return Book(page, url, lab.folder / "work", name)


@pytest.fixture(scope="module")
def books(jupyter):
    """The notebook that tests share; none before the first test and after one that failed."""
    made = []
    yield made
    for book in made:
        book.close()
    eventually(lambda: not jupyter[2].answers(), 5, "the end of the server")


def shot(book, name):
    """A screenshot, where somebody wants to look."""
    if folder := os.environ.get("URISK_TEST_SHOTS"):
        book.page.screenshot(path=f"{folder}/dashboard-{name}.png")


@pytest.fixture
def book(jupyter, books, request):
    """
    The notebook that tests share, empty, with a session and no dashboard. What a failure leaves in
    it ends with its page and kernel, and is no matter of the next test.
    """
    if not books:
        books.append(opened(jupyter, "shared"))
    shared, failed = books.pop(), request.session.testsfailed
    try:
        shared.run(START)
        yield shared
        shot(shared, request.node.name.removeprefix("test_"))
        if request.session.testsfailed == failed:
            shared.run("%urisk_dashboard --close")
            shared.clear()
            books.append(shared)
    finally:
        if not books:
            shared.close()


# Each change of the lamp's word, with its time: a word that stands there for a moment is seen, too.
# Times are the system's, in seconds.
WORDS = """
window.words = [];
new MutationObserver(() => {
  const lamp = document.querySelector('.urisk-dashboard strong');
  const word = lamp ? lamp.textContent : '';
  const is_new = !window.words.length || window.words.at(-1)[1] !== word;
  if (is_new) window.words.push([Date.now() / 1000, word]);
}).observe(document, {subtree: true, childList: true, characterData: true});
document.addEventListener('keydown', event => {
  if (event.shiftKey && event.key === 'Enter') window.pressed = Date.now() / 1000;
}, true);
"""


def when(page, word, after=0.0):
    """The first time after `after` at which the lamp's word was this one."""
    return next(
        (at for at, seen in page.evaluate("window.words") if at >= after and seen == word), None
    )


def test_it_is_there_at_once(book, figure):
    """
    From Shift+Enter to a lamp that says Ready takes less than a second in a kernel with a session,
    widgets not yet loaded.
    """
    book.start("%urisk_dashboard")
    book.ready()
    took = when(book.page, "Ready") - book.page.evaluate("window.pressed")
    figure("dashboard there", took)
    assert took < 1.0


LIVE = "table[aria-label='in-flight calls'] tbody tr"
SLOW = "calls = [event_loop.submit(m.stream('slow').whole()) for _ in range({})]"


def count_of(place):
    """How many calls ended well, as the table of percentiles says; none without a table."""
    head = place.locator("table[aria-label='latency percentiles'] thead th").first
    return int(head.inner_text().split()[0]) if head.count() else 0


def pieces_of(place):
    return int(place.locator(LIVE).first.locator("td").last.inner_text())


def test_calls_under_way(book):
    """
    A call is seen to wait for its first token, then to grow; those behind it wait here, with what
    to do; its end is counted.
    """
    place = book.places.first
    book.run("%urisk_dashboard")
    book.ready()
    before = count_of(place)
    book.run(SLOW.format(3))
    rows = place.locator(LIVE)
    rows.filter(has_text="queue, load, prompt").wait_for(timeout=3000)
    assert rows.filter(has_text="queued locally").count() == 2
    said = place.locator(".alert", has_text="2 calls wait behind 1: the server has 1 slot.")
    assert "--parallel 4" in said.inner_text(timeout=3000)
    rows.filter(has_text="generating").wait_for(timeout=5000)
    pieces = pieces_of(place)
    eventually(lambda: pieces_of(place) > pieces + 10, 5, "growth")
    eventually(lambda: count_of(place) == before + 1, 10, "the count of one call more")
    book.run("for call in calls[1:]: call.cancel()")
    place.locator(LIVE).first.wait_for(state="detached", timeout=5000)
    assert "cancelled: 2" in place.inner_text()


def test_the_buttons(book, lab):
    """
    Restart asks before it is done and does nothing after Cancel; unload, warm, stop and start are
    done and said.
    """
    book.run("%urisk_dashboard")
    book.ready()
    pid, _ = lab.processes()
    book.button("Restart").click()
    book.button("Cancel").click()
    book.button("Cancel").wait_for(state="hidden")
    assert lab.processes()[0] == pid
    book.button("Restart").click()
    book.confirm("Restart")
    book.places.first.get_by_text("Restarted in").wait_for(timeout=10_000)
    book.ready()
    assert lab.processes()[0] != pid
    book.button("Unload").click()
    book.confirm("Unload")
    book.word("Ready, model not loaded")
    book.button("Warm").click()
    book.ready()
    book.button("Stop").click()
    book.confirm("Stop")
    book.word("Not started")
    eventually(lambda: not lab.answers(), 3, "the end of the server")
    book.button("Start").click()
    book.ready()


def test_a_server_that_dies(book, lab, figure):
    """
    The lamp says so at once, and says Ready again when the server that was started instead is
    there; nobody clicks.
    """
    book.run("%urisk_dashboard")
    book.ready()
    pids, killed = lab.processes(), time.time()
    os.kill(pids[0], signal.SIGKILL)
    eventually(lambda: when(book.page, "Down, restarting", killed), 5, "the word that it is down")
    down = when(book.page, "Down, restarting", killed)
    eventually(lambda: when(book.page, "Ready", down), 10, "the word that it is back")
    figure("server killed: the lamp says so", down - killed)
    figure("server killed: the lamp is green again", when(book.page, "Ready", down) - killed)
    assert down - killed < 1.0
    assert lab.counters()["pid"] != pids[0]  # its runner may be still to come


def test_a_page_that_is_loaded_again(book):
    """The dashboard goes on in the new page."""
    book.run("%urisk_dashboard")
    book.ready()
    before = count_of(book.places.first)
    book.save()
    book.page.reload()
    book.ready(30)
    book.idle()
    book.run("m.generate_sync('hi')")
    eventually(lambda: count_of(book.places.first) == before + 1, 15, "the count of one call more")


# What a place could leave behind in the kernel. Files without those that come and go by themselves:
# the event counters of ZeroMQ's sockets, which ipykernel makes for its threads, and the journal of
# IPython's history.
HELD = """def held():
    import gc, threading, comm, ipywidgets
    from pathlib import Path
    gc.collect()
    files = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return {
        "widgets": len(ipywidgets.widgets.widget._instances),
        "comms": len(comm.get_comm_manager().comms),
        "threads": threading.active_count(),
        "callbacks": sum(map(len, get_ipython().events.callbacks.values())),
        "files": len([name for name in files if "eventfd" not in name and "history" not in name]),
    }"""


def test_ten_times_opened_and_closed(book):
    """Each closing leaves a picture of its moment in the notebook, and nothing in the kernel."""
    book.run(f"{HELD}\nm.generate_sync('hi')")
    seen = []
    for number in range(10):
        cell = book.run("%urisk_dashboard")
        book.ready()
        if not number:
            book.button("Inspect a call").click()
            book.button("Chart").click()
            book.page.wait_for_selector(
                ".urisk-dashboard .js-plotly-plot .bars", state="attached", timeout=60_000
            )
        book.run("%urisk_dashboard --close")
        cell.get_by_text("as it was at").wait_for(timeout=5000)
        assert book.places.count() == 0
        if number in (0, 9):
            seen.append(book.value("held()"))
    files = [one.pop("files") for one in seen]
    assert seen[0] == seen[1]
    assert abs(files[0] - files[1]) <= 2  # a pooled connection comes and goes; ten would be a leak


def test_while_a_cell_runs(book):
    """
    The buttons are off, with the reason, while a cell keeps the kernel from hearing them; what is
    live stays live.
    """
    place = book.places.first
    book.run("%urisk_dashboard")
    book.ready()
    assert book.button("Restart").is_enabled()
    book.run(SLOW.format(1))
    cell = book.start("import time; time.sleep(3)")
    place.get_by_text("A cell is running: the buttons are off").wait_for(timeout=3000)
    assert not any(button.is_enabled() for button in place.locator("button:visible").all())
    place.locator(LIVE).filter(has_text="generating").wait_for(timeout=3000)
    pieces = pieces_of(place)
    eventually(lambda: pieces_of(place) > pieces + 10, 3, "growth")
    assert cell.locator(".jp-InputPrompt").inner_text() == "[*]:"
    place.get_by_text("A cell is running: the buttons are off").wait_for(
        state="detached", timeout=6000
    )
    eventually(book.button("Restart").is_enabled, 3, "a button that may be used again")


def test_one_call_looked_into(book, figure):
    """
    By keyboard: where its time went, what was asked and answered, as text whatever it contains; a
    chart whose columns choose.
    """
    page, place = book.page, book.places.first
    book.run(
        f"for n in range(5): m.generate_sync('hi')\nm.generate_sync({f'hostile {HOSTILE}'!r}, "
        f"{HOSTILE!r}, options={{'temperature': 0}})"
    )
    book.run("%urisk_dashboard")
    book.ready()
    book.button("Inspect a call").focus()
    page.keyboard.press("Enter")
    place.get_by_label("Call", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    place.get_by_text("temperature 0").wait_for(timeout=5000)
    number = int(re.search(r"\d+", place.locator("h4").first.inner_text())[0])
    assert place.locator(f"svg[aria-label='phases of call {number}']").count() == 1
    for folded in place.locator("summary").all():
        folded.click()
    shown = place.locator("details pre").all_inner_texts()
    assert sum("<script>window.hit=1</script>" in text for text in shown) == 3
    assert page.evaluate("window.hit") is None
    began = time.monotonic()
    book.button("Chart").click()
    place.locator(".js-plotly-plot .bars .point path").first.wait_for(
        state="attached", timeout=60_000
    )
    figure("first chart", time.monotonic() - began)
    assert page.locator(".modebar-btn").count() == 0
    assert "Share" not in place.inner_text()
    place.locator(".js-plotly-plot .bars").last.locator(".point path").nth(1).click(force=True)
    place.locator("h4", has_text=re.compile(rf"^Call (?!{number}:)\d+: ok$")).wait_for(timeout=5000)


def test_two_places(book, lab):
    """
    Both are live; without one the other goes on; without both nobody asks the server any more.
    """
    cells = [book.run("%urisk_dashboard"), book.run("%urisk_dashboard")]
    book.ready()
    assert book.places.count() == 2
    before = count_of(book.places.first)
    book.run("m.generate_sync('hi')")
    for place in book.places.all():
        eventually(
            lambda place=place: count_of(place) == before + 1, 5, "the count of one call more"
        )
    book.delete(cells[0])
    eventually(lambda: book.places.count() == 1, 5, "one place")
    book.run("m.generate_sync('hi')")
    eventually(lambda: count_of(book.places.first) == before + 2, 5, "the count of one call more")
    asked = lab.counters()["paths"]["/api/ps"]
    eventually(lambda: lab.counters()["paths"]["/api/ps"] > asked, 5, "a look at the server")
    book.delete(book.cells.filter(has_text="urisk_dashboard").first)
    eventually(lambda: book.places.count() == 0, 5, "no place")
    flat = [0, 0.0]

    def is_flat():
        now, asked = time.monotonic(), lab.counters()["paths"]["/api/ps"]
        if asked != flat[0]:
            flat[:] = asked, now
        return now - flat[1] > 3.5

    eventually(is_flat, 8, "an end of the looks")


ENDED = "The kernel ended or restarted."


def test_the_kernel_ends(jupyter):
    """
    Started again, it can leave no picture: the place says that it is no longer live, and has no
    buttons. Shut down, it leaves a picture of its last moment, which is there when the notebook is
    opened again.
    """
    with contextlib.closing(opened(jupyter, "ends")) as book:
        book.run(START)
        book.run("%urisk_dashboard")
        book.ready()
        restart(book)
        book.page.wait_for_selector(".urisk-dashboard.jupyter-widgets-disconnected")
        assert ENDED in book.places.first.evaluate(
            "place => getComputedStyle(place, '::before').content"
        )
        assert "Ready" in book.places.first.inner_text(), "as it was"
        assert book.places.first.locator("button:visible").count() == 0
        shot(book, "kernel-restarted")
        book.idle()
        book.clear()
        book.run(f"{START}\nm.generate_sync('hi')")
        cell = book.run("%urisk_dashboard")
        book.ready()
        book.menu("Kernel", "Shut Down Kernel")
        cell.get_by_text("as it was at").wait_for()
        assert book.places.count() == 0
        assert "Ready" in cell.inner_text()
        assert (
            cell.locator("tbody th").first.evaluate("cell => getComputedStyle(cell).textAlign")
            == "left"
        )
        shot(book, "kernel-shut-down")
        book.save()
        book.open()
        reopened = book.cells.filter(has_text="%urisk_dashboard")
        reopened.get_by_text("as it was at").wait_for()
        assert "1 call that succeeded" in reopened.inner_text()


def restart(book):
    book.menu("Kernel", "Restart Kernel…")
    book.page.locator(".jp-Dialog-button.jp-mod-accept").last.click()


# Each text and each coloured shape of the dashboard, with the contrast between its colour and what
# lies behind it.
CONTRASTS = """
(() => {
  const parse = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const mix = (top, below, share) => top * share + below * (1 - share);
  const over = (top, below) => top.slice(0, 3).map((part, i) => mix(part, below[i], top[3]));
  const behind = node => {
    if (!node) return [255, 255, 255];
    const colour = parse(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(node.parentElement));
  };
  const linear = part => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const light = rgb => rgb.map(part => linear(part / 255))
    .reduce((sum, part, i) => sum + part * [.2126, .7152, .0722][i], 0);
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + .05) / (low + .05);
  };
  const found = [];
  const place = document.querySelector('.urisk-dashboard');
  for (const node of place.querySelectorAll('*')) {
    const style = getComputedStyle(node), ground = behind(node);
    const is_seen = node.checkVisibility() && style.opacity !== '0';
    if (!is_seen || node.closest('[disabled]')) continue;
    const is_drawn = node instanceof SVGElement;
    const text = [...node.childNodes].filter(child => child.nodeType === 3)
      .map(child => child.data.trim()).filter(Boolean).join(' ');
    const add = (kind, what, colour, below) =>
      found.push({kind, what, ratio: contrast(over(parse(colour), below), below)});
    if (text && node.tagName !== 'STYLE')
      add('text', text.slice(0, 40), is_drawn ? style.fill : style.color, ground);
    if (node.matches('svg[aria-label] [fill^="#"]:not(text), svg[aria-hidden] rect'))
      add('shape', style.fill, style.fill, ground);
    const fill = style.backgroundColor;
    if (node.matches('.bars .point path'))
      add('shape', 'chart ' + style.fill, style.fill, behind(node.closest('.js-plotly-plot')));
    if (node.matches('.lamp, .muted > span > span'))
      add('shape', fill, fill, behind(node.parentElement));
  }
  return found;
})()
"""
# Controls that can be used, with their names; a private-use character is an icon's, and says
# nothing.
CONTROLS = """
[...document.querySelector('.urisk-dashboard').querySelectorAll('button, select, input, summary')]
  .filter(node => node.checkVisibility() && !node.disabled)
  .map(node => (node.ariaLabel || node.labels?.[0]?.textContent
    || (node.matches('select') ? node.title : node.textContent))
    .replace(/[\ue000-\uf8ff]/g, '').trim())
"""
UNLABELED = """
[...document.querySelectorAll('.urisk table:not([aria-label]), '
  + '.urisk svg:not([role=img][aria-label], [aria-hidden=true])')]
  .map(node => node.outerHTML.slice(0, 200))
"""
STRIPE = """
from urisk_nb.errors import UriskError
for prompt in ("hi", "hi", "reset"):
    try: m.generate_sync(prompt)
    except UriskError: pass
event_loop.run(m.unload())
event_loop.run(m.unload())
calls = [event_loop.submit(m.stream("hi").whole()) for _ in range(4)]
for call in calls: call.done.wait(10)
"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_legible_and_reachable(book, jupyter, theme):
    """
    In both themes text has 4.5:1 and shapes 3:1 against what lies behind; by Tab one comes to all
    controls, each has a name.
    """
    page, place = book.page, book.places.first
    set_theme(jupyter[2].folder / "work" / "settings", theme)
    book.run(STRIPE)
    book.run("%urisk_dashboard")
    book.ready()
    book.save()
    page.reload()
    book.idle()
    book.ready()
    book.button("Inspect a call").click()
    place.get_by_label("Call", exact=True).fill("3")
    place.get_by_label("Call", exact=True).press("Enter")
    place.locator("h4").first.wait_for()
    place.locator("summary").first.click()
    book.button("Chart").click()
    page.wait_for_selector(
        ".urisk-dashboard .js-plotly-plot .bars", state="attached", timeout=60_000
    )
    book.button("Restart").click()
    place.locator("button.mod-danger:visible").wait_for()
    shot(book, theme.split()[-1].lower())
    found = page.evaluate(CONTRASTS)
    assert len({one["what"] for one in found if one["kind"] == "shape"}) >= 7, found
    low = {
        (one["kind"], one["what"], round(one["ratio"], 2))
        for one in found
        if one["ratio"] < (4.5 if one["kind"] == "text" else 3.0)
    }
    assert not low
    assert page.evaluate(UNLABELED) == []
    names = page.evaluate(CONTROLS)
    assert all(names), names
    assert by_tab(book) >= len(names)


def by_tab(book):
    """How many controls one comes to by Tab, from the first to the end of the dashboard."""
    page, reached = book.page, 1
    first = "button:visible:enabled, select:visible:enabled"
    book.places.first.locator(first).first.focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        inside = page.evaluate("!!document.activeElement.closest('.urisk-dashboard')")
        if not inside:
            break
        reached += page.evaluate("document.activeElement.matches('button, select, input, summary')")
    return reached
