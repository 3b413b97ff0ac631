"""
The fake program `ollama` as real processes: how it starts, what it says, which runners it
has, and how everything ends.
"""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fake_ollama.program import address
from harness import OllamaProgram, alive, eventually, free_port
from program_driver import EOF, LINGERS, STOPPED, cmdline

MUTE = {"rules": [{"answer": ["a"], "first_ms": 60_000}]}


def received(connection):
    """A short reply, to the end of its JSON."""
    got = b""
    while b"}" not in got and (part := connection.recv(65536)):
        got += part
    return got.decode()


def command(folder, *arguments, scenario=None, **env):
    path = OllamaProgram(folder, scenario).path
    done = subprocess.run(
        [path, *arguments],
        env={"PATH": "/nowhere", **env},
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, done.stdout, done.stderr


# start --------------------------------------------------------------------------------------------


def test_it_is_ready_at_once_and_says_which_version_it_is(served):
    """
    By default the one that says SCRIPTED's origin; else the scenario's; without PATH, HOME or a
    package of ours installed.
    """
    began = time.monotonic()
    one = served()
    assert time.monotonic() - began < 2  # measured: 0.11 s on an idle machine
    assert one.answers() == {"version": "0.33.0"}
    assert served({"version": "0.33.0"}).answers() == {"version": "0.33.0"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ("127.0.0.1", 11434)),
        ("127.0.0.1:4000", ("127.0.0.1", 4000)),
        ("[::1]:4000", ("::1", 4000)),
        ("[::1]", ("::1", 11434)),
        ("http://localhost:4000/x", ("localhost", 4000)),
        (":4000", ("127.0.0.1", 4000)),
        (' "localhost" ', ("localhost", 11434)),
        ("localhost:no", ("localhost", 11434)),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value, expected):
    """Host and port, brackets and scheme; only that no host means this machine alone."""
    assert address(value) == expected


def test_it_listens_on_an_ipv6_address(served):
    """With brackets in OLLAMA_HOST, and in the log."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    one = served(host="::1")
    assert one.answers()
    assert f"Listening on [::1]:{one.port} (version" in one.err


def test_what_it_says_comes_in_ollamas_order(served):
    """
    The key text once and access lines on stdout; slog lines on stderr, those of a load after those
    of the start.
    """
    one = served({"version": "0.33.0"})
    one.loaded()
    assert one.out.count("Your new public key is:") == 1
    eventually(lambda: '"/api/chat"' in one.out, what="the access line")
    assert [
        line
        for line in one.out.splitlines()
        if line.startswith("[GIN] ") and "| 200 |" in line and '"/api/chat"' in line
    ]
    said = [
        'msg="server config"',
        f'msg="Listening on 127.0.0.1:{one.port} (version 0.33.0)"',
        'msg="inference compute"',
        'msg="vram-based default context"',
        'msg="starting llama-server"',
        'msg="waiting for llama-server to start responding"',
        'msg="llama-server started in ',
    ]
    at = [one.err.find(text) for text in said]
    assert -1 not in at
    assert at == sorted(at)
    assert all(line.startswith("time=20") for line in one.err.splitlines())


def test_a_taken_port_is_told_in_ollamas_one_line(served):
    """Exit code 1, on stderr the very line and nothing else."""
    one = served()
    other = served(port=one.port, ready=False)
    assert other.process.wait(10) == 1
    assert other.err == f"Error: listen tcp 127.0.0.1:{one.port}: bind: address already in use\n"


@pytest.mark.slow
def test_version_tells_the_servers_and_its_own(served, tmp_path):
    """
    One line for the same version, a warning for another, two warnings without a server; always 0.
    """
    one = served({"version": "0.33.0"})
    host = {"OLLAMA_HOST": one.env["OLLAMA_HOST"]}
    assert command(tmp_path / "a", "--version", scenario={"version": "0.33.0"}, **host) == (
        0,
        "ollama version is 0.33.0\n",
        "",
    )
    warned = "ollama version is 0.33.0\nWarning: client version is 0.33.1\n"
    assert command(tmp_path / "b", "--version", scenario={"version": "0.33.1"}, **host) == (
        0,
        warned,
        "",
    )
    alone = "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.33.0\n"
    assert command(tmp_path / "c", "--version", OLLAMA_HOST=f"127.0.0.1:{free_port()}") == (
        0,
        alone,
        "",
    )


@pytest.mark.parametrize("arguments", [(), ("run", "smol"), ("serve", "now"), ("--help",)])
def test_anything_else_is_the_usage_and_1(tmp_path, arguments):
    """On stderr; nothing starts."""
    code, out, err = command(tmp_path, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("Usage:")


def test_a_scenario_that_is_none_is_one_line_and_1(tmp_path):
    """No traceback."""
    code, _, err = command(tmp_path, "serve", scenario={"process": {"nonsense": 1}})
    assert code == 1
    assert err.startswith("Error: scenario ")
    assert err.count("\n") == 1


# runners ------------------------------------------------------------------------------------------


def test_a_loaded_model_has_a_runner_of_its_own(served):
    """Our child in our session and group, known by its argv, small; the counters name it."""
    one = served({"models": ["one", "two"]})
    assert one.children() == set()
    for model in ("one", "two"):
        assert one.chat(model=model).read()
    runners = one.children()
    assert len(runners) == 2
    for pid in runners:
        words = cmdline(pid).decode().split("\0")
        at = words.index("llama-server")
        assert (words[at + 1], words[at + 3]) == ("--model", "--port")
        assert words[at + 4].isdigit()
        assert os.getsid(pid) == os.getsid(one.process.pid)
        assert os.getpgid(pid) == os.getpgid(one.process.pid)
        resident = next(
            line
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        assert int(resident.split()[1]) < 20_000  # kB
    counters = one.counters()
    assert (counters["pid"], set(counters["runners"]), counters["loads"]) == (
        one.process.pid,
        runners,
        2,
    )


def test_an_unload_kills_and_reaps_the_runner(served):
    """No child is left, not even a zombie; /api/ps is empty."""
    one = served()
    one.loaded()
    assert (
        json.loads(one.open("POST", "/api/chat", {"model": "llama3.1", "keep_alive": 0}).read())[
            "done_reason"
        ]
        == "unload"
    )
    eventually(lambda: not one.children(), what="no child")
    assert one.shown() == []
    assert one.counters()["runners"] == []


@pytest.mark.slow
def test_an_unloaded_model_may_show_for_a_while(served):
    """`unload_ms`: /api/ps goes on naming it, then it is gone and so is its runner."""
    one = served({"unload_ms": 800})
    runner = one.loaded()
    began = time.monotonic()
    one.open("POST", "/api/chat", {"model": "llama3.1", "keep_alive": 0}).read()
    assert one.shown() == ["llama3.1:latest"]
    assert alive(runner)
    eventually(lambda: not one.shown(), what="no model")
    assert time.monotonic() - began >= 0.7
    assert not alive(runner)


def test_another_context_window_is_another_runner(served):
    """A reload kills the old one first."""
    one = served()
    first = one.loaded()
    assert one.chat(options={"num_ctx": 2048}).read()
    assert one.runner() != first
    assert one.counters()["loads"] == 2


def test_a_client_that_leaves_during_the_load_leaves_no_runner(served):
    """The half-loaded one is killed and nothing is shown."""
    one = served({"load_ms": 60_000})
    with one.send_chat():
        eventually(one.children, what="a runner")
    eventually(lambda: not one.children(), what="no runner")
    assert one.shown() == []


def test_a_runner_killed_while_idle_shows_until_the_next_request_loads_again(served):
    """/api/ps names the dead one, the counters do not."""
    one = served()
    runner = one.loaded()
    os.kill(runner, signal.SIGKILL)
    eventually(lambda: not one.children(), what="no child")
    assert one.shown() == ["llama3.1:latest"]
    assert one.counters()["runners"] == []
    assert b'"done":true' in one.chat().read()
    assert one.runner() != runner
    assert one.counters()["loads"] == 2


def test_a_runner_killed_in_a_stream_ends_it_with_an_error_line(served):
    """Status 200, the piece, then Ollama's own words; slot free, the next request loads again."""
    one = served({"rules": [{**LINGERS["rules"][0], "times": 1}]})
    reply = one.chat()
    first = json.loads(reply.readline())
    os.kill(one.runner(), signal.SIGKILL)
    assert (reply.status, first["message"]["content"]) == (200, "a")
    assert json.loads(reply.read()) == {"error": EOF}
    assert b'"done":true' in one.chat().read()
    assert one.counters()["loads"] == 2


def test_a_runner_killed_before_the_first_piece_is_a_500(served):
    """
    With the words for a runner that is gone before its reply; who waited for the slot fails, too.
    """
    one = served(MUTE)
    with one.send_chat() as first, one.send_chat() as second:
        eventually(
            lambda: (one.counters()["in_flight"], one.counters()["waiting"]) == (1, 1),
            what="one answering, one waiting",
        )
        os.kill(one.runner(), signal.SIGKILL)
        for connection in (first, second):
            got = received(connection)
            assert got.startswith("HTTP/1.1 500 ")
            assert json.dumps({"error": STOPPED}, separators=(",", ":")) in got


def test_a_runner_killed_while_loading_is_a_500(served):
    """`terminated: signal: killed`; nothing is shown."""
    one = served({"load_ms": 60_000})
    with one.send_chat() as connection:
        runner = next(iter(eventually(one.children, what="a runner")))
        os.kill(runner, signal.SIGKILL)
        assert "llama-server process has terminated: signal: killed" in received(connection)
    assert one.shown() == []
