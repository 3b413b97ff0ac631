"""A plain socket client, and a backend with gates."""

import asyncio
import json
import socket
from dataclasses import dataclass

import pytest

from fake_ollama import Scenario, ScriptedBackend, running
from fake_ollama.backend import Chunk, Final
from ollama_process import Served


@dataclass
class Exchange:
    """What came back on the wire: chunks as they were framed, or the one body."""

    status: int
    headers: dict
    chunks: list

    @property
    def body(self):
        return b"".join(self.chunks)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def lines(self):
        return [json.loads(line) for line in self.body.split(b"\n") if line]


def parse(data):
    """
    One HTTP reply from raw bytes; fails on anything that is not exactly one well-formed reply.
    """
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    status = int(first.split(" ")[1])
    if headers.get("Transfer-Encoding") != "chunked":
        return Exchange(status, headers, [rest])
    chunks = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        assert rest[count : count + 2] == b"\r\n"
        if not count:
            assert rest == b"\r\n", "bytes after the end of the body"
            return Exchange(status, headers, chunks)
        chunks.append(rest[:count])
        rest = rest[count + 2 :]


def raw(url, data, *, until=None):
    """Send bytes; receive until the server closes, or until a mark was seen."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=45) as connection:
        connection.sendall(data)
        got = b""
        while part := connection.recv(65536):
            got += part
            if until is not None and until in got:
                break
        return got


def request_bytes(method, path, body=None, **headers):
    """One request, as a client that closes the connection afterwards writes it."""
    if body is not None and not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    sent = {
        "Host": "127.0.0.1:11434",
        "Connection": "close",
        **({"Content-Length": str(len(body))} if body is not None else {}),
        **headers,
    }
    return (
        f"{method} {path} HTTP/1.1\r\n".encode()
        + "".join(f"{k}: {v}\r\n" for k, v in sent.items()).encode()
        + b"\r\n"
        + (body or b"")
    )


@pytest.fixture(scope="session")
def ask():
    """`ask(url, method, path, body, **headers)` -> Exchange, over a socket of its own."""
    return lambda url, method, path, body=None, **headers: parse(
        raw(url, request_bytes(method, path, body, **headers))
    )


class GateBackend(ScriptedBackend):
    """
    Answers one piece, then waits until its gate is opened; tells when it began and when it was
    closed.
    """

    def __init__(self, scenario=None):
        super().__init__(scenario)
        self.began = asyncio.Queue()
        self.closed = asyncio.Queue()
        self.before = asyncio.Event()  # open: the first piece may go
        self.gate = asyncio.Event()  # open: the rest may go
        self.before.set()

    async def answer(self, ask):
        self.began.put_nowait(ask.last)
        try:
            await self.before.wait()
            yield Chunk(text=ask.last)
            await self.gate.wait()
            yield Final(reason="stop", prompt_new=1, answered=1, answer_ns=1, prompt_ns=1)
        finally:
            self.closed.put_nowait(ask.last)


@pytest.fixture
def gate_backend():
    return GateBackend


@pytest.fixture(scope="module")
def server():
    scenario = Scenario(
        models=(
            "llama3.1",
            "me/Foo:tag",
            {"name": "stub", "remote_host": "https://elsewhere.example"},
        )
    )
    with running(ScriptedBackend(scenario)) as started:
        yield started


@pytest.fixture
def served(tmp_path):
    """Start `ollama serve` with a scenario; it and its runners are gone afterwards."""
    started = []

    def start(scenario=None, **rest):
        started.append(Served(tmp_path / str(len(started)), scenario or {}, **rest))
        return started[-1]

    yield start
    for each in started:
        each.end()
