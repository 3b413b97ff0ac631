"""
The scripted server's program as real processes: its own faults, and how it and its answers end.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from harness import OllamaProgram, alive, eventually, free_port
from program_driver import EOF, LINGERS, STOPPED, bound

# the process's own faults -------------------------------------------------------------------------


def test_it_may_refuse_to_start(served):
    """The words on stderr, the exit code, and nothing listens."""
    one = served(
        {"process": {"refuse": "Error: no space left on device", "exit_code": 3}}, ready=False
    )
    assert one.process.wait(10) == 3
    assert one.err == "Error: no space left on device\n"


@pytest.mark.slow
def test_between_listening_and_ready_it_accepts_and_does_not_answer(served):
    """A TCP connect proves nothing; the answer comes when it is ready."""
    one = served({"process": {"ready_ms": 1200}}, ready=False)
    eventually(one.accepts, what="listening")
    assert "vram-based" not in one.err
    began = time.monotonic()
    assert one.get("/api/version")
    assert time.monotonic() - began > 0.3
    assert "vram-based" in one.err


@pytest.mark.slow
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


@pytest.mark.slow
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


# how it ends --------------------------------------------------------------------------------------


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


# endings of a rule --------------------------------------------------------------------------------


def ends(how, *pieces):
    return {"rules": [{"contains": "go", "answer": list(pieces), "ends": how}], "slots": 1}


@pytest.mark.slow
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


@pytest.mark.slow
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


# pull ---------------------------------------------------------------------------------------------


@pytest.mark.slow
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
