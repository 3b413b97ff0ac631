"""The fake program `ollama` as a process, asked without our client."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from harness import OllamaProgram, children, eventually, free_port


class Served:
    """
    One `ollama serve`, its output in files, so that no pipe fills, and what a client requests it.
    """

    def __init__(self, folder, scenario, *, port=None, ready=True, host="127.0.0.1"):
        self.program = OllamaProgram(folder, scenario)
        self.host, self.port = host, port or free_port()
        self.seen = set()
        where = f"[{host}]" if ":" in host else host
        env = {
            "PATH": f"{folder}:/nowhere",
            "OLLAMA_HOST": f"{where}:{self.port}",
            "HOME": "/nowhere",
        }
        self.env = env
        self.out_file, self.err_file = Path(folder) / "out", Path(folder) / "err"
        with self.out_file.open("wb") as out, self.err_file.open("wb") as err:
            self.process = subprocess.Popen(
                ["ollama", "serve"], env=env, stdout=out, stderr=err, executable=self.program.path
            )
        if ready:
            eventually(lambda: self.process.poll() is not None or self.answers(), what="ready")

    @property
    def out(self):
        return self.out_file.read_text()

    @property
    def err(self):
        return self.err_file.read_text()

    def answers(self, within_s=1.0):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/api/version", within_s)

    def accepts(self):
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), timeout=1),
        ):
            return True
        return False

    def get(self, path, within_s=5.0):
        return json.loads(self.open("GET", path, within_s=within_s).read())

    def open(self, method, path, body=None, within_s=10.0):
        """The reply as soon as its head is there; its connection ends with it."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=within_s)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), {"Connection": "close"}
            )
            return connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def chat(self, text="hi", model="llama3.1", **rest):
        return self.open(
            "POST",
            "/api/chat",
            {"model": model, "messages": [{"role": "user", "content": text}], **rest},
        )

    def send_chat(self, **rest):
        """A chat whose reply nobody waits for here: the socket."""
        body = json.dumps(
            {"model": "llama3.1", "messages": [{"role": "user", "content": "hi"}], **rest}
        ).encode()
        connection = socket.create_connection((self.host, self.port), timeout=10)
        connection.sendall(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        return connection

    def loaded(self):
        """Load the model; the runner's pid."""
        assert self.chat().read()
        return self.runner()

    def runner(self):
        (pid,) = self.children()
        return pid

    def children(self):
        found = children(self.process.pid)
        self.seen |= found
        return found

    def shown(self):
        return [model["name"] for model in self.get("/api/ps")["models"]]

    def counters(self):
        return self.get("/urisk/counters")

    def end(self):
        self.children()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5)
        for pid in self.seen:
            if b"llama-server" in cmdline(pid):
                os.kill(pid, signal.SIGKILL)


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def received(connection):
    """A short reply, to the end of its JSON."""
    got = b""
    while b"}" not in got and (part := connection.recv(65536)):
        got += part
    return got.decode()


def bound(seconds, ask):
    """What is asked does not come within that time."""
    with pytest.raises(TimeoutError):
        ask(seconds)
