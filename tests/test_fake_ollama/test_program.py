"""
The fake program `ollama` as real processes: how it starts, what it says, which runners it
has, and how everything ends.
"""

import contextlib
import http.client
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
from ollama_process import bound, cmdline, received

pytestmark = pytest.mark.slow  # each of them starts programs

LINGERS = {"rules": [{"answer": ["a", "b", "c"], "token_ms": 60_000}]}
MUTE = {"rules": [{"answer": ["a"], "first_ms": 60_000}]}
STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an "
    "internal error, "
    "check ollama server logs for details"
)
EOF = "an error was encountered while running the model: unexpected EOF"


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


# ---- start ---------------------------------------------------------------------------------------


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
    alone = (
        "Warning: could not connect to a running Ollama instance\n"
        "Warning: client version is 0.33.0\n"
    )
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


# ---- the process's own faults --------------------------------------------------------------------


def test_it_may_refuse_to_start(served):
    """The words on stderr, the exit code, and nothing listens."""
    one = served(
        {"process": {"refuse": "Error: no space left on device", "exit_code": 3}}, ready=False
    )
    assert one.process.wait(10) == 3
    assert one.err == "Error: no space left on device\n"


def test_between_listening_and_ready_it_accepts_and_does_not_answer(served):
    """A TCP connect proves nothing; the answer comes when it is ready."""
    one = served({"process": {"ready_ms": 1200}}, ready=False)
    eventually(one.accepts, what="listening")
    assert "vram-based" not in one.err
    began = time.monotonic()
    assert one.get("/api/version")
    assert time.monotonic() - began > 0.3
    assert "vram-based" in one.err


def test_it_may_end_by_itself_and_leave_its_runners(served):
    """The last words, the exit code, and an orphan."""
    one = served(
        {
            "process": {
                "exit_after_ms": 1500,
                "exit_code": 7,
                "last_words": "fatal error: out of memory",
            }
        }
    )
    runner = one.loaded()
    assert one.process.wait(10) == 7
    assert one.err.endswith("\nfatal error: out of memory\n")
    assert alive(runner)


def test_it_may_ignore_sigterm(served):
    """It goes on serving; SIGINT and SIGKILL still work."""
    one = served({"process": {"ignore_sigterm": True}})
    one.process.send_signal(signal.SIGTERM)
    assert one.loaded()
    assert one.answers()
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(5) == 0


def test_a_slow_end_closes_the_listener_at_once_and_swallows_a_second_signal(served):
    """Runner and process stay for the while, then 0."""
    one = served({"process": {"slow_sigterm_ms": 1000}})
    runner = one.loaded()
    began = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    eventually(lambda: not one.accepts(), what="no listener")
    assert alive(runner)
    one.process.send_signal(signal.SIGTERM)
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(5) == 0
    assert time.monotonic() - began >= 0.9
    assert not alive(runner)


# ---- runners -------------------------------------------------------------------------------------


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


# ---- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cuts_the_stream_and_takes_the_runners_along(served, number):
    """Exit code 0, the client's body ends without `done`, nothing is left."""
    one = served(LINGERS)
    reply = one.chat()
    assert reply.readline()
    runner = one.runner()
    one.process.send_signal(number)
    assert one.process.wait(5) == 0
    assert not alive(runner)
    assert b"done_reason" not in rest_of(reply)


def rest_of(reply):
    """What still comes, and however it ends."""
    try:
        return reply.read()
    except http.client.IncompleteRead as exc:
        return exc.partial
    except ConnectionError:
        return b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_killed_server_leaves_its_runner(served, number):
    """As with Ollama: an orphan that lives on, until somebody who knows it kills it."""
    one = served()
    runner = one.loaded()
    one.process.send_signal(number)
    assert one.process.wait(5) == -number
    assert alive(runner)
    assert not one.accepts()
    os.kill(runner, signal.SIGKILL)
    eventually(lambda: not alive(runner), what="the orphan's end")


def test_without_a_reader_it_dies_of_sigpipe(tmp_path):
    """
    A pipe whose reader is gone ends the server at its next word, as Go's runtime does; never a
    traceback.
    """
    port = free_port()
    env = {"PATH": "/nowhere", "OLLAMA_HOST": f"127.0.0.1:{port}"}
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [OllamaProgram(tmp_path).path, "serve"], env=env, stdout=subprocess.PIPE, stderr=err
        )
    try:
        assert process.stdout.readline()
        process.stdout.close()
        eventually(lambda: poke(port) or process.poll() is not None, what="the end")
        assert process.wait(5) == -signal.SIGPIPE
    finally:
        process.kill()
        process.wait(5)
    assert "Traceback" not in (tmp_path / "err").read_text()


def poke(port):
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        connection.recv(1)
    return False


# ---- endings of a rule ---------------------------------------------------------------------------


def ends(how, *pieces):
    return {"rules": [{"contains": "go", "answer": list(pieces), "ends": how}], "slots": 1}


def test_hang_sends_its_pieces_and_then_nothing(served):
    """The server answers others; when the client leaves, the slot is free."""
    one = served(ends("hang", "a"))
    reply = one.chat("go")
    assert json.loads(reply.readline())["message"]["content"] == "a"
    reply.fp.raw._sock.settimeout(0.2)
    bound(0.2, lambda _: reply.readline())
    assert one.answers()
    reply.close()
    assert b'"done":true' in one.chat().read()


def test_wedge_silences_the_whole_server(served):
    """It still accepts connections; SIGTERM still ends it."""
    one = served(ends("wedge", "a"))
    reply = one.chat("go")
    assert reply.readline()
    eventually(lambda: not one.answers(0.1), what="silence")
    assert one.accepts()
    bound(0.2, lambda within_s: one.get("/api/version", within_s))
    one.process.terminate()
    assert one.process.wait(5) == 0


def test_crash_ends_the_process_and_leaves_the_runner(served):
    """After the pieces, exit code 2, no end of the body."""
    one = served(ends("crash", "a"))
    runner = one.loaded()
    reply = one.chat("go")
    assert json.loads(reply.readline())["message"]["content"] == "a"
    assert one.process.wait(5) == 2
    assert b"done_reason" not in rest_of(reply)
    assert alive(runner)


@pytest.mark.parametrize(("pieces", "status", "text"), [((), 500, STOPPED), (("a",), 200, EOF)])
def test_runner_kills_it_and_the_next_request_loads_again(served, pieces, status, text):
    """Without pieces a status, else an error line; the process of the runner is really gone."""
    one = served(ends("runner", *pieces))
    runner = one.loaded()
    reply = one.chat("go")
    lines = [json.loads(line) for line in reply.read().splitlines()]
    assert (reply.status, lines[-1]) == (status, {"error": text})
    assert not alive(runner)
    assert b'"done":true' in one.chat().read()
    assert one.runner() != runner


# ---- pull ----------------------------------------------------------------------------------------


def test_a_pull_that_was_left_goes_on_where_it_was(served):
    """
    `completed` is absent while 0, grows in steps, and starts at the next pull from what is here;
    then the model answers.
    """
    one = served({"models": ["llama3.1", {"name": "tiny", "installed": False}], "pull_ms": 30})
    first = one.open("POST", "/api/pull", {"model": "tiny"})
    lines = [json.loads(first.readline()) for _ in range(5)]
    first.close()
    layer = [line for line in lines if "total" in line]
    assert "completed" not in layer[0]
    here = layer[-1]["completed"]
    assert one.chat(model="tiny").status == 404
    rest = [
        json.loads(line)
        for line in one.open("POST", "/api/pull", {"model": "tiny"}).read().splitlines()
    ]
    completed = [line["completed"] for line in rest if "total" in line]
    assert completed[0] >= here
    assert completed == sorted(completed)
    assert completed[-1] == layer[0]["total"]
    assert rest[-1] == {"status": "success"}
    assert one.chat(model="tiny").status == 200
