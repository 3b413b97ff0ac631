"""
What status, dashboard, latencies and inspector show of several servers, and what names them. The
servers are threads of this process.
"""

import contextlib

import pytest

from call_records import answered, facts
from fake_ollama import Scenario, ScriptedBackend, running
from urisk_nb import LLMManager, cli, event_loop, process_state
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.snapshot import EndpointSnapshot
from urisk_nb.notebook import call_panel, panels
from urisk_nb.notebook.alerts import find_alerts
from urisk_nb.notebook.latencies import build_table
from urisk_nb.notebook.magics import _list_status, build_parser


@pytest.fixture
def session():
    """A session over two servers, their addresses, and what ends the second one."""
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        backends = [(stack, ScriptedBackend(Scenario())) for stack in (first, second)]
        urls = [stack.enter_context(running(backend)).url for stack, backend in backends]
        manager = LLMManager.initialize_sync(url=urls)
        yield manager, urls, second.close
        manager.shutdown_sync()
    assert process_state.get("manager") is None


def test_status_has_a_line_for_each_server(session):
    """State, calls in flight and places; whether the circuit is open; why one is left out."""
    manager, urls, end_second = session
    rows = _list_status(manager)
    assert rows["server"] == f"Ollama 0.33.0 at {urls[0]} and 1 other server, already running"
    assert rows["server 1"] == f"Ollama 0.33.0 at {urls[0]}, ready, 0 of 1 in flight"
    breaker = manager.pool.endpoints[1].retrying.breakers[manager.model]
    breaker.opened_at, breaker._pause_s = 1e12, 5.0
    assert f"{urls[1]}, circuit open, 0 of 1" in _list_status(manager)["server 2"]
    end_second()
    event_loop.run(manager.check_external())
    rows = _list_status(manager)
    assert "(1 left out)" in rows["server"]
    assert f"{urls[1]}, left out: " in rows["server 2"]
    assert "nothing answers" in rows["server 2"]


def test_the_dashboard_has_a_row_for_each_server(session):
    """In its head, as text, and an alert for one that is left out."""
    manager, urls, end_second = session
    end_second()
    event_loop.run(manager.check_external())
    now = manager.snapshot()
    assert all(url in panels.render_head(now) for url in urls)
    assert f"{urls[1]}, left out: " in panels.render_snapshot_text(now)
    assert panels.health(now) == ("good", "Ready")
    (alert,) = [one for one in find_alerts(now) if urls[1] in one.text]
    assert (alert.level, "the others answer" in alert.text) == ("warning", True)


def test_what_a_server_calls_itself_is_escaped():
    """Its version comes from outside."""
    one = EndpointSnapshot(url="http://a", label="Ollama <b>1", why_out="<i>gone")
    now = facts(servers=(one, EndpointSnapshot(url="http://b", label="Ollama")))
    shown = panels.render_snapshot(now)
    assert "<b>1" not in shown
    assert "<i>gone" not in shown


def test_latencies_and_inspector_name_the_server_of_a_call(session):
    """Only where there are several."""
    manager, urls, _ = session
    manager.generate_sync("Hello?")
    made = build_table(manager.calls.records)
    assert made["server"].tolist() == urls[:1]
    assert made.attrs["source"]["server"]
    assert f" at {urls[0]}" in call_panel.render_call(manager.calls.records[0], ())
    record = answered(Calls())
    assert "server" not in build_table([record]).columns
    assert " at http" not in call_panel.render_call(record, ())


@pytest.mark.parametrize("line", ["--url a --url b", "--url a,b", "--url=a --url=b"])
def test_addresses_may_be_given_one_by_one(line):
    """In a magic, and in a shell."""
    assert build_parser("urisk_start").parse_line(line).url == "a,b"
    assert cli._parser().parse_args(["demo", *line.split()]).url == "a,b"


def test_doctor_checks_each_server(session, monkeypatch, capsys, tmp_path):
    """One that does not answer is named; one that answers is enough."""
    _, urls, end_second = session
    monkeypatch.setenv("OLLAMA_URL", ",".join(urls))
    monkeypatch.setenv("URISK_DATA", str(tmp_path))
    assert cli._doctor(None) == 0
    said = capsys.readouterr().out
    assert all(f"0.33.0 answers at {url}; models: llama3.1:latest" in said for url in urls)
    end_second()
    assert cli._doctor(None) == 0
    said = capsys.readouterr().out
    assert f"none that can be used at {urls[1]}: " in said
    assert said.rstrip().endswith("Ready: a model can answer.")


def test_doctor_says_that_models_differ(monkeypatch, capsys, tmp_path):
    """No start would end with a session."""
    scenarios = [
        Scenario(models=[{"name": "llama3.1", "digest": digit * 64}]) for digit in ("1", "2")
    ]
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(running(ScriptedBackend(one))).url for one in scenarios]
        monkeypatch.setenv("OLLAMA_URL", ",".join(urls))
        monkeypatch.setenv("URISK_DATA", str(tmp_path))
        assert cli._doctor(None) == 1
    assert f"{urls[0]} has 111111111111, {urls[1]} has 222222222222" in capsys.readouterr().out
