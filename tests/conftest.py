"""What all tests share: a stand-in server as a real process, and the watch for leaks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def children():
    """The living processes whose parent is this one, where /proc tells; a zombie is one that somebody did not wait for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def eventually(condition, within_s=5.0, what="the condition"):
    """Wait until the condition holds; for what another process or thread does in its own time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := condition():
            return value
        threading.Event().wait(0.01)
    raise AssertionError(f"{what} did not come true within {within_s} s")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No setting of the machine that runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("OLLAMA_", "URISK_")) and name != "URISK_TEST_WEIGHTS":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_leaks(request):
    """No test leaves a process or a thread of its own behind; the package's one loop thread may stay."""
    if {"kernel", "standin", "jupyter"} & set(request.fixturenames):
        yield  # these live longer than one test, and their own fixtures end them
        return
    before, threads = children(), set(threading.enumerate())
    yield
    eventually(lambda: children() <= before, 3, f"end of processes started by {request.node.name}")

    def left():
        return {thread for thread in threading.enumerate() if thread.is_alive()} - threads

    eventually(lambda: all(thread.name == "urisk-loop" for thread in left()), 3, f"end of threads started by {request.node.name}")


class StandIn:
    """A scripted stand-in, running as a process."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "urisk_nb.standin", "--brain", "scripted", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        line = self.process.stdout.readline()
        self.ready = json.loads(line)
        self.url = self.ready["url"]

    def counters(self):
        with urllib.request.urlopen(f"{self.url}/urisk/counters", timeout=5) as reply:
            return json.load(reply)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self.process.stdout.close()


@pytest.fixture
def standin_with(tmp_path):
    """Start a stand-in with a scenario (a dict, as its --scenario file takes it)."""
    started = []

    def start(scenario=None, *arguments):
        if scenario is not None:
            path = tmp_path / f"scenario{len(started)}.json"
            path.write_text(json.dumps(scenario))
            arguments = ("--scenario", str(path), *arguments)
        started.append(StandIn(*arguments))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def standin():
    """One scripted stand-in for the tests of a module."""
    server = StandIn()
    yield server
    server.stop()
