"""
The fake Ollama as a real process: its one line, its end, and what it says when it cannot start.
"""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "fake_ollama", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=TESTS,
        text=True,
    )


@pytest.fixture
def process():
    """Start a fake Ollama and read its line; whatever the test does, it is gone afterwards."""
    alive = []

    def start(*arguments):
        alive.append(started(*arguments))
        return alive[-1], json.loads(alive[-1].stdout.readline())

    yield start
    for each in alive:
        each.kill()
        each.communicate()


def test_one_line_tells_that_it_is_ready(process, tmp_path):
    """url, pid and model on stdout and in the ready file; the url answers at once."""
    one, line = process("--ready-file", str(tmp_path / "ready"))
    assert line == {
        "url": line["url"],
        "pid": one.pid,
        "model": "llama3.1:latest",
    }
    assert json.loads((tmp_path / "ready").read_text()) == line
    with urllib.request.urlopen(line["url"] + "/api/version", timeout=5) as reply:
        assert json.load(reply) == {"version": "0.33.0"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_in_the_middle_of_a_stream(process, tmp_path, number):
    """The stream is cut, stderr stays empty, the exit code is 0."""
    scenario = tmp_path / "slow.json"
    scenario.write_text('{"rules": [{"answer": ["a", "b"], "token_ms": 60000}]}')
    one, line = process("--scenario", str(scenario))
    host, _, port = line["url"].removeprefix("http://").partition(":")
    body = json.dumps(
        {"model": line["model"], "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
        one.send_signal(number)
        assert one.wait(5) == 0
    assert one.communicate()[1] == ""


def test_a_taken_port_is_told_as_ollama_tells_it(process):
    """Exit code 1, nothing on stdout, and on stderr the very line."""
    _, line = process()
    port = line["url"].rpartition(":")[2]
    other = started("--port", port)
    out, err = other.communicate(timeout=10)
    assert (other.returncode, out, err) == (
        1,
        "",
        f"Error: listen tcp 127.0.0.1:{port}: bind: address already in use\n",
    )


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (["--scenario", "FILE"], b"{", "scenario "),
        (["--scenario", "FILE"], None, "No such file or directory"),
    ],
)
def test_what_it_cannot_do_is_one_line_and_1(tmp_path, arguments, content, said):
    """No traceback, nothing on stdout."""
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    other = started(*[str(file) if argument == "FILE" else argument for argument in arguments])
    out, err = other.communicate(timeout=20)
    assert (other.returncode, out) == (1, "")
    assert err.startswith("Error: ")
    assert said in err
    assert err.count("\n") == 1


def test_it_starts_light():
    """No package beyond the standard library is imported, nor any of ours."""
    code = "import sys, fake_ollama.__main__; print([n for n in sys.modules if n in sys.argv])"
    heavy = ["urisk_nb", "pandas", "numpy", "httpx", "pydantic", "IPython"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, cwd=TESTS, check=True
    )
    assert done.stdout.strip() == "[]"
