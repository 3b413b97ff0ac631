"""
A run that begins while the server of its session is away, as between two deployments: it waits as
it would in its middle. Each server is small, and of the test's own.
"""

import contextlib
import json
import socket
import threading
import time

import pytest

from harness import eventually, free_port
from small_server import Handler, page, serve
from urisk_nb import LLMManager, assess, errors
from urisk_nb.llm import run_calls
from urisk_nb.server import engines
from urisk_nb.settings import Engine

EVIDENCE = [{"ticker": "ACME", "text": "The company was fined 2 billion dollars by the court."}]
LABEL = '{"risk":"legal","severity":2}'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("OLLAMA_AUTO_START", "false")
    monkeypatch.setattr(run_calls, "PROBE_PAUSE_S", 0.02)
    yield
    if (manager := LLMManager.find_instance()) is not None:
        manager.shutdown_sync()


class Labels(Handler):
    """Every sentence is legal; a connection serves one request, so that a server that ends ends."""

    protocol_version = "HTTP/1.0"

    def stream(self):
        end = {"message": {"content": LABEL}, "done": True, "done_reason": "stop"}
        self.reply(200, json.dumps(end).encode() + b"\n", "application/x-ndjson")


class Down(Labels):
    """A proxy whose server is down."""

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(502, page("502 Bad Gateway"), "text/html")


class Other(Labels):
    """An OpenAI-compatible server."""

    def answer(self):
        is_list = self.path == "/v1/models"
        body = b'{"object":"list","data":[{"id":"m"}]}' if is_list else b"{}"
        self.reply(200 if is_list else 404, body)


@contextlib.contextmanager
def back_after(seconds, port, instead=contextlib.nullcontext()):  # noqa: B008  it has no state
    """A server that is at the port so many seconds after it was missed; `instead` until then."""
    server = LLMManager.get_instance().server
    stack = contextlib.ExitStack()

    def come_back():
        with instead:
            eventually(lambda: server.is_lost, within_s=20)
            time.sleep(seconds)
        stack.enter_context(serve(port=port, handler=Labels))

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        stack.close()


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def connect(handler=Labels, **settings):
    """A session whose server has ended since; the port."""
    with serve(handler=handler) as server:
        LLMManager.initialize_sync(url=server.url, **settings)
        return server.port


@pytest.mark.slow
def test_a_run_that_begins_in_an_outage_waits_for_its_end():
    """The session is as it was before: its server was only away."""
    port = connect()
    manager = LLMManager.get_instance()
    with back_after(0.6, port):
        table = assess("ACME", evidence=EVIDENCE)
        assert table.loc["ACME", ["status", "r_legal"]].tolist() == ["ok", 2]
        assert LLMManager.get_instance() is manager
        assert manager.state == "external"


@pytest.mark.slow
def test_a_cell_waits_and_shows_it(monkeypatch):
    from urisk_nb.notebook import magics
    from urisk_nb.session import open_run

    port, shown = connect(max_retries=0), []
    monkeypatch.setattr(
        magics, "_show_progress", lambda board, run, _: shown.append(str(run.progress))
    )
    run = open_run("ACME", evidence=EVIDENCE)
    with back_after(0.6, port):
        magics._label(run, None, None)
    assert run.table().loc["ACME", "status"] == "ok"
    assert any("nothing answers, waiting" in one for one in shown)


@pytest.mark.slow
def test_a_proxy_that_answers_for_a_server_that_is_away_is_waited_for():
    port = connect()
    with back_after(0.6, port, instead=serve(port=port, handler=Down)):
        eventually(lambda: is_open(port))
        assert assess("ACME", evidence=EVIDENCE).loc["ACME", "status"] == "ok"


@pytest.mark.slow
def test_the_wait_has_its_budget():
    """Then the run ends with its table, and with what was seen."""
    connect(outage_wait_s=0.3)
    began_s = time.monotonic()
    with pytest.raises(errors.ServerNotRunning, match="nothing answers") as caught:
        assess("ACME", evidence=EVIDENCE)
    assert 0.3 <= time.monotonic() - began_s < 5
    assert caught.value.partial.loc["ACME", "status"] == "not_run"


@pytest.mark.slow
def test_a_first_start_is_not_waited_for():
    """Nobody knows that there is a server: the address may be wrong."""
    with pytest.raises(errors.ServerNotRunning, match="nothing answers"):
        LLMManager.initialize_sync(url=f"http://127.0.0.1:{free_port()}", outage_wait_s=60)


@pytest.mark.slow
def test_changed_settings_are_not_waited_for_over_the_old_server(monkeypatch):
    """The run would go on with settings that are no longer the user's."""
    connect(outage_wait_s=60)
    monkeypatch.setenv("OLLAMA_MODEL", "another")
    with pytest.raises(errors.ServerNotRunning):
        assess("ACME", evidence=EVIDENCE)


@pytest.mark.slow
def test_no_other_engine_takes_the_place_of_another_wires_server(monkeypatch):
    """A run would label with a model that nobody named; only %urisk_start starts one."""
    monkeypatch.setenv("OLLAMA_AUTO_START", "true")
    monkeypatch.setattr(engines, "choose", lambda _: pytest.fail("an engine was chosen"))
    connect(Other, outage_wait_s=0.1)
    assert LLMManager.get_instance().engine is Engine.OPENAI
    with pytest.raises(errors.ServerNotRunning, match="nothing answers"):
        assess("ACME", evidence=EVIDENCE)
    with pytest.raises(pytest.fail.Exception, match="an engine was chosen"):
        LLMManager.initialize_sync(reload="all")
