"""
`%urisk_dashboard` in a real kernel, over a real process; a front end without a browser keeps its
widgets, and clicks.
"""

import json
import os
import signal
import time
import urllib.request

import pytest

from fake_frontend import FakeFrontend
from fake_ollama_env import FakeOllamaEnv
from harness import Kernel, alive, eventually

# Longer before the first token than from one picture to the next, so that each phase is seen
SLOW = {"contains": "slow", "answer": "word " * 60, "first_ms": 700, "token_ms": 20}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
CALL = "from urisk_nb import LLMManager, event_loop\nm = LLMManager.get_instance()\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = FakeOllamaEnv(tmp_path_factory.mktemp("dashboard"), Kernel)
    lab.plan(rules=[SLOW], load_ms=300)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def kernel(lab):
    return lab.kernel()


@pytest.fixture
def front(lab, kernel):
    """The dashboard, open over a session and looked at; closed again at the end."""
    front = FakeFrontend(kernel)
    front.run("%urisk_start")
    front.run("%urisk_dashboard")
    front.set(front.root, _view_count=1)
    front.says("Ready")
    yield front
    front.run("%urisk_dashboard --close")


@pytest.mark.timing
def test_it_is_there_at_once(front, kernel, figure):
    """
    Ready within a second; one place with a widget, and beside it the same as a picture and as text,
    for whoever has no kernel.
    """
    front.run("%urisk_dashboard --close")
    front.outputs.clear()
    began_s = time.monotonic()
    front.run("%urisk_dashboard")
    front.says("Ready", 5)
    figure("the dashboard's first picture", time.monotonic() - began_s)
    assert time.monotonic() - began_s < 1.0
    ((kind, content),) = front.outputs
    assert kind == "display_data"
    assert set(content["data"]) == {
        "text/plain",
        "text/html",
        "application/vnd.jupyter.widget-view+json",
    }
    assert content["data"]["text/plain"].startswith("Ready: Ollama 0.33.0")
    assert "as it was at" in content["data"]["text/html"]


def test_a_second_place_is_one_more_view(front):
    """The same tree, no new widget."""
    before = set(front.models)
    front.run("%urisk_dashboard")
    assert set(front.models) == before
    views = [
        content["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for kind, content in front.outputs
    ]
    assert views == [front.root, front.root]


def test_a_call_is_seen_while_it_goes_on(front):
    """
    Asked, then generating, others behind it with what to do; at the end there are three calls more.
    """
    front.run(
        CALL
        + "before = len(m.calls)\ncalls = [event_loop.submit(m.stream('slow').whole()) for _ in "
        "range(3)]"
    )
    front.says("queue, load, prompt")
    front.says("generating .* queued locally")
    front.says("calls? waits? behind 1: the server has 1 slot. For more at once .*--parallel")
    front.says("[1-9] calls that succeeded", 15)
    front.run("[call.wait() for call in calls]")
    front.run("print(len(m.calls) - before)")
    front.until(
        lambda: "in-flight calls" not in front.text() and "queued locally 0" in front.text()
    )


def test_what_destroys_asks_first(front, lab):
    """Cancel: nothing has happened. Yes: another process, warm."""
    pid = lab.counters()["pid"]
    front.click("Restart")
    front.says("This ends the server and starts another.")
    front.until(lambda: front.buttons().get("Stop") is False, what="the other buttons off")
    front.click("Cancel")
    front.until(lambda: front.buttons().get("Stop") is True)
    assert lab.counters()["pid"] == pid
    front.click("Restart")
    front.says("This ends the server")
    front.click("Restart")  # the one beside the question
    front.says("Restarted in")
    assert lab.counters()["pid"] != pid
    assert not alive(pid)
    front.says("^Ready · .* restarts 0")


def test_unload_and_warm(front, lab):
    """The model goes, and comes back; what cannot be done now is off."""
    assert front.buttons() == {
        "Start": False,
        "Warm": False,
        "Unload": True,
        "Restart": True,
        "Stop": True,
        "Inspect a call": True,
    }
    front.click("Unload")
    front.says("The next call loads llama3.1:latest again.")
    front.click("Unload")
    front.says("Ready, model not loaded .* Unloaded in")
    front.until(lambda: front.buttons()["Warm"])
    front.click("Warm")
    front.says("Loaded in")
    front.says("^Ready ·")
    assert lab.counters()["runners"]


def test_stop_and_start(front, lab):
    """
    A call under way is counted in the question; afterwards the session starts again as it was.
    """
    front.run("%urisk_start --num-ctx 2048")
    front.run(CALL + "call = event_loop.submit(m.stream('slow').whole())")
    front.says("generating")
    front.click("Stop")
    front.says("This ends the session and stops its server.* 1 in-flight call will be cut off.")
    front.click("Stop")
    front.says("Not started · no session.* Stopped in .* calls? that succeeded")
    assert not lab.answers()
    front.until(
        lambda: {name for name, on in front.buttons().items() if on} == {"Start", "Inspect a call"}
    )
    front.click("Start")
    front.says("Started in", 20)
    front.says("^Ready · .* 2,048 tokens")
    front.run("%urisk_start --num-ctx 4096")


def test_a_start_that_fails_says_why_and_can_be_tried_again(front, lab):
    """The program is gone; then it is back."""
    front.click("Stop")
    front.says("This ends the session")
    front.click("Stop")
    front.says("Not started")
    away = lab.program.path.with_name("away")
    lab.program.path.rename(away)
    try:
        front.until(lambda: front.buttons()["Start"])
        front.click("Start")
        front.says("(Ollama is not installed|nothing to start|not found|no server)", 20)
    finally:
        away.rename(lab.program.path)
    front.until(lambda: front.buttons()["Start"])
    front.click("Start")
    front.says("Started in", 20)


def test_a_killed_server_turns_red_and_comes_back(front, lab, figure):
    """By itself; an alert says what happened, and where its log is."""
    os.kill(lab.counters()["pid"], signal.SIGKILL)
    began_s = time.monotonic()
    front.says("Down, restarting .* ended unexpectedly and is being restarted", 3)
    figure("the dashboard sees a killed server", time.monotonic() - began_s)
    front.says("^Ready · .* ended unexpectedly once .*Its log: /", 10)
    figure("the dashboard is green again", time.monotonic() - began_s)


def test_a_question_that_a_cell_overtakes_is_dropped(front, lab):
    """A yes that was given while the kernel could not hear would be done minutes later."""
    pid = lab.counters()["pid"]
    front.click("Restart")
    front.says("This ends the server")
    yes = [comm for comm, state in front.tree() if state.get("description") == "Restart"][-1]
    front.kernel.start("import time\ntime.sleep(1.5)")
    front.says("A cell is running")
    front.send(yes, {"method": "custom", "content": {"event": "click"}})
    front.until(
        lambda: (
            "A cell is running" not in front.text() and "This ends the server" not in front.text()
        )
    )
    front.take(1.0)
    assert lab.counters()["pid"] == pid
    front.until(lambda: front.buttons()["Restart"])


def test_a_cell_within_a_cell_keeps_the_buttons_off(front):
    """The inner one's end is not the end."""
    front.kernel.start("import time\nget_ipython().run_cell('1')\ntime.sleep(1.8)")
    front.says("A cell is running")
    front.take(0.3)
    assert set(front.buttons().values()) == {False}
    front.until(lambda: front.buttons()["Stop"])


@pytest.mark.timing
def test_a_server_that_hangs_does_not_hold_up_the_dashboard(front, lab):
    """
    It says so within seconds, goes on drawing, and a second place is there at once; afterwards all
    is well again.
    """
    pid = lab.counters()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        front.says("^Does not answer .* did not answer within 2 s", 6)
        began_s = time.monotonic()
        front.run("%urisk_dashboard")
        assert time.monotonic() - began_s < 1.0
        front.until(lambda: front.buttons()["Restart"] and not front.buttons()["Start"])
    finally:
        os.kill(pid, signal.SIGCONT)
    front.says("^Ready ·", 6)


def test_a_session_of_another_server_shows_nothing_of_the_last(front, lab, fake_ollama):
    """
    Its own process, its own calls: the list of the other's is emptied. When that server goes, it
    can be started for.
    """
    front.run(CALL + "m.generate_sync('hi')")
    front.click("Inspect a call")
    select = front.until(
        lambda: next(
            (state for _, state in front.tree() if state.get("_model_name") == "SelectModel"), None
        )
    )
    front.until(lambda: select["_options_labels"])
    front.run(f"%urisk_start --url {fake_ollama.url}")
    front.says(f"Ollama .* at {fake_ollama.url}.*process {fake_ollama.process.pid}")
    front.until(lambda: not select["_options_labels"])
    front.click("Inspect a call")
    front.run(f"%urisk_start --url {lab.url}")
    front.says(f"at {lab.url}")


def test_a_server_of_others_that_goes_away(front, lab, fake_ollama_with):
    """Red; a start is offered, a restart is not: it was theirs."""
    others = fake_ollama_with({})
    front.run(f"%urisk_start --url {others.url}")
    front.says("^Ready")
    front.until(lambda: front.buttons()["Restart"] is False)
    others.stop()
    front.says("^Does not answer", 6)
    front.until(lambda: front.buttons()["Start"] and not front.buttons()["Restart"])
    front.run(f"%urisk_start --url {lab.url}")
    front.says("^Ready")


def test_another_program_that_changes_the_context(front, lab):
    """
    It has our model loaded with a larger context: our next call pays for it, and the alert says
    why.
    """
    body = {
        "model": "llama3.1",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "options": {"num_ctx": 8192},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{lab.port}/api/chat",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10):
        front.says("8,192 tokens", 6)
    front.run(CALL + "m.generate_sync('hi')")
    front.says("to load: num_ctx changed from 8192, set by another program, to 4096", 6)


def test_the_buttons_are_off_while_a_cell_runs(front):
    """No click is heard then, so none is kept for later; what is shown goes on."""
    began = front.kernel.start(
        CALL + "import time\ncall = event_loop.submit(m.stream('slow').whole())\ntime.sleep(1.5)"
    )
    front.says("A cell is running: the buttons are off", 3)
    front.says("generating")
    assert set(front.buttons().values()) == {False}
    front.until(lambda: front._idle == began)
    front.until(lambda: front.buttons()["Stop"] and "A cell is running" not in front.text())


def test_one_call_is_looked_into(front):
    """
    The list follows until a call is chosen; then the call stands there, hostile text as text, and
    the list stands still.
    """
    front.run(
        CALL + "m.generate_sync('<script>x()</script>', 'You judge.', options={'temperature': 0})"
    )
    front.click("Inspect a call")
    select = front.until(
        lambda: next(
            (state for _, state in front.tree() if state.get("_model_name") == "SelectModel"), None
        )
    )
    front.until(lambda: select["_options_labels"])
    assert select["index"] is None
    number = int(select["_options_labels"][0].split()[0])
    front.choose("SelectModel", 0)
    front.says(
        rf"Call {number}: ok .* reading the prompt .* options: temperature 0, num_ctx 4096; "
        r".*<script>x\(\)</script>"
    )
    front.run("m.generate_sync('next')")
    front.says("[0-9] calls that succeeded")
    front.take(0.6)
    assert int(select["_options_labels"][0].split()[0]) == number
    front.click("Follow")
    front.until(lambda: int(select["_options_labels"][0].split()[0]) == number + 1)
    assert f"Call {number}: ok" not in front.text()
    front.click("Inspect a call")
    front.until(
        lambda: (
            not any(state.get("_model_name") == "SelectModel" for state in front.models.values())
        ),
        what="its end",
    )


def test_orders_of_the_list(front):
    """The slowest first; those that did not succeed."""
    front.run(
        CALL
        + "m.generate_sync('slow')\nm.generate_sync('hi')\nfor _ in m.stream_sync('slow'): break"
    )
    front.click("Inspect a call")
    select = front.until(
        lambda: next(
            (state for _, state in front.tree() if state.get("_model_name") == "SelectModel"), None
        )
    )
    front.until(lambda: "cancelled" in str(select["_options_labels"]))
    front.choose("DropdownModel", 1)
    front.until(lambda: "cancelled" not in select["_options_labels"][0])
    took_s = [
        float(line.split()[2]) for line in select["_options_labels"] if line.split()[3] == "s"
    ]
    assert took_s == sorted(took_s, reverse=True)
    front.choose("DropdownModel", 2)
    front.until(
        lambda: (
            all("tokens" not in line for line in select["_options_labels"])
            and select["_options_labels"]
        )
    )
    front.click("Inspect a call")


def test_the_chart_comes_and_goes(front):
    """It is loaded on demand, has no toolbar, and goes away without a trace."""
    front.run(CALL + "m.generate_sync('hi')")
    front.click("Inspect a call")
    front.until(lambda: "Chart" in front.buttons())
    before = set(front.models)
    front.click("Chart")
    figure = front.until(
        lambda: next((state for _, state in front.tree() if "_config" in state), None),
        20,
        "the chart",
    )
    assert figure["_config"]["displayModeBar"] is False
    assert len(figure.get("_widget_data") or figure["_data"]) == 6, (
        "the phases; the name is plotly's, before its version 6 the second"
    )
    front.click("Chart")
    front.until(lambda: set(front.models) == before, what="the end of the chart")
    front.click("Inspect a call")


def test_closing_leaves_a_picture_and_nothing_else(front):
    """
    Every place is given the picture; every widget is closed; closing again changes nothing; a new
    one is a new one.
    """
    front.run("%urisk_dashboard")
    front.click("Inspect a call")
    front.until(lambda: "Follow" in front.buttons())
    root, shown = (
        front.root,
        [
            content["transient"]["display_id"]
            for kind, content in front.outputs
            if kind == "display_data"
        ],
    )
    front.outputs.clear()
    front.run("%urisk_dashboard --close\n%urisk_dashboard --close")
    front.take(0.3)
    assert front.models == {}
    assert [(kind, content["transient"]["display_id"]) for kind, content in front.outputs] == [
        ("update_display_data", name) for name in shown
    ]
    assert all(set(content["data"]) == {"text/plain", "text/html"} for _, content in front.outputs)
    assert all("as it was at" in content["data"]["text/html"] for _, content in front.outputs)
    front.run("%urisk_dashboard")
    assert front.root != root
    front.says("Ready")


def test_opening_and_closing_leaks_nothing(front, kernel):
    """
    Widgets, comms, threads, callbacks, tasks and open files are as many after the tenth time as
    after the first.
    """
    count = (
        "import gc, os, threading, asyncio, comm, ipywidgets\nfrom urisk_nb import "
        "event_loop\ngc.collect()\n"
        "print([len(ipywidgets.widgets.widget._instances), len(comm.get_comm_manager().comms), "
        "threading.active_count(),"
        "sum(map(len, get_ipython().events.callbacks.values())), "
        "len(asyncio.all_tasks(event_loop.loop())), len(os.listdir('/proc/self/fd'))])"
    )
    front.run("%urisk_dashboard --close")
    first = kernel.good(count).text()
    for _ in range(10):
        front.run("%urisk_dashboard")
        front.says("Ready")
        front.click("Inspect a call")
        front.until(lambda: "Follow" in front.buttons())
        front.run("%urisk_dashboard --close")
    eventually(
        lambda: kernel.good(count).text() == first,
        3,
        f"{first} again, not {kernel.good(count).text()}",
    )
    front.run("%urisk_dashboard")


def test_unloading_the_extension_closes_it(front):
    """The picture stays."""
    front.outputs.clear()
    front.run("%unload_ext urisk_nb")
    front.take(0.2)
    assert front.models == {}
    assert [kind for kind, _ in front.outputs] == ["update_display_data"]
    front.run("%load_ext urisk_nb")


def test_kernels_that_share_a_server(front, lab, new_kernel):
    """
    The question says that others are cut off, too; four restarts by hand leave the other kernel
    well, and its server the same.
    """
    other = lab.kernel()
    other.good("%urisk_start")
    for _ in range(4):
        front.click("Restart")
        front.says("Other kernels of yours use it, too")
        front.click("Restart")
        front.says("Restarted in")
        front.until(lambda: front.buttons()["Restart"])
    state = CALL + "m.generate_sync('hi')\nprint(m.state, m.restart_count, m.breaker(), m.pid)"
    expected = f"managed 0 closed {lab.counters()['pid']}"
    eventually(lambda: other.good(state).text().strip() == expected, 10, expected)
    other.stop()
    front.click("Restart")
    front.says("starts another\\. *$|starts another\\. (?!Other)")
    front.click("Cancel")


# Without widgets, and at the end ------------------------------------------------------------------


def test_a_picture_on_demand(kernel):
    """`--static`: the same as HTML and text, no widget; also without a session."""
    front = FakeFrontend(kernel)
    front.run("%urisk_start")
    cell = kernel.good("%urisk_dashboard --static")
    ((kind, content),) = cell.outputs
    assert (kind, set(content["data"]), front.models) == (
        "display_data",
        {"text/plain", "text/html"},
        {},
    )
    assert content["data"]["text/plain"].startswith("Ready: ")


def test_committed_notebooks_get_pictures(new_kernel):
    """URISK_STATIC=1: no widget, also without a session."""
    cell = new_kernel({"URISK_STATIC": "1"}).good("%load_ext urisk_nb\n%urisk_dashboard")
    ((_, content),) = cell.outputs
    assert set(content["data"]) == {"text/plain", "text/html"}
    assert content["data"]["text/plain"].startswith("Not started: no session")


@pytest.mark.parametrize(
    ("cells", "restart"),
    [
        (["%urisk_start", "%urisk_dashboard"], False),
        (["%urisk_start", "%urisk_dashboard"], True),
        (["%urisk_dashboard", "%urisk_start"], False),
    ],
    ids=["shutdown", "restart", "shown before the start"],
)
def test_the_end_of_the_kernel_leaves_the_picture(lab, new_kernel, cells, restart):
    """
    In an orderly end the last message of each place is the picture, with the session as it was
    before its end.
    """
    kernel = new_kernel({**lab.env}, str(lab.folder / "work"))
    front = FakeFrontend(kernel)
    front.run("%load_ext urisk_nb")
    for cell in cells:
        front.run(cell)
    front.says("^Ready")
    front.outputs.clear()
    client = kernel.client
    client.control_channel.send(client.session.msg("shutdown_request", {"restart": restart}))
    front.until(lambda: front.outputs, 5, "the picture")
    ((kind, content),) = front.outputs
    assert kind == "update_display_data"
    assert content["data"]["text/plain"].startswith("Ready: ")
    eventually(lambda: not kernel.manager.is_alive(), 5, "the kernel's end")
