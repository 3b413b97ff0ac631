"""
A scripted model server for measurements, which takes the same time for every answer.

It is its own program, and implements the part of Ollama's API that a run needs. It uses one event
loop without threads, to take little CPU time from what is measured. It answers `slots` calls at a
time; the others wait in order. It never fails; for failures there is `tests/flaky_server.py`.
"""

from __future__ import annotations

import asyncio
import collections
import json
import selectors
import subprocess
import sys
import urllib.request

MODEL = "llama3.1:latest"
LISTED = {"name": MODEL, "model": MODEL, "digest": "d1", "size": 1, "details": {}}
LABEL = '{"risk":"legal","severity":3}'
CHUNKS = (
    {"model": MODEL, "message": {"role": "assistant", "content": LABEL}, "done": False},
    {
        "model": MODEL,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 900,
        "eval_count": 9,
    },
)
ANSWER = b"".join(json.dumps(chunk).encode() + b"\n" for chunk in CHUNKS)
LOADED = json.dumps({"model": MODEL, "done": True, "done_reason": "load"}).encode()
REPLIES = {
    b"/api/version": json.dumps({"version": "0.12.3"}).encode(),
    b"/api/tags": json.dumps({"models": [LISTED]}).encode(),
    b"/api/show": json.dumps({"capabilities": ["completion"], "model_info": {}}).encode(),
}
HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


# The program --------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """A connection that parses whole requests."""

    def __init__(self, slots: Slots) -> None:
        self.slots, self.received = slots, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"\r\ncontent-length:")
        size = int(length.partition(b"\r\n")[0] or 0)
        if end and len(rest) >= size:
            self.received = rest[size:]
            self.answer(head.split(b" ", 2)[1], rest[:size])

    def answer(self, path: bytes, body: bytes) -> None:
        if path == b"/asked":
            self.send(str(self.slots.asked).encode())
        elif path != b"/api/chat":
            self.send(REPLIES.get(path, b"{}"), b"200 OK" if path in REPLIES else b"404 Not Found")
        elif b'"messages":[]' in body:
            self.send(LOADED)
        else:
            self.slots.take(self)

    def send(self, body: bytes, status: bytes = b"200 OK") -> None:
        self.transport.write(HEAD % (status, len(body)) + body)


class Slots:
    """The running calls and the queue."""

    def __init__(self, service_s: float, count: int) -> None:
        self.service_s, self.free, self.asked = service_s, count, 0
        self.waiting: collections.deque[Connection] = collections.deque()

    def take(self, connection: Connection) -> None:
        self.asked += 1
        self.waiting.append(connection)
        self.begin()

    def begin(self) -> None:
        if self.free and self.waiting:
            self.free -= 1
            asyncio.get_running_loop().call_later(self.service_s, self.end, self.waiting.popleft())

    def end(self, connection: Connection) -> None:
        connection.send(ANSWER)
        self.free += 1
        self.begin()


async def serve(service_s: float, count: int) -> None:
    slots = Slots(service_s, count)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(slots), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(service_s: str, count: str) -> None:
    # epoll rounds timeouts to milliseconds, select does not
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(serve(float(service_s), int(count)))


# The process --------------------------------------------------------------------------------------


class FixedTimeServer:
    """A running server process."""

    def __init__(self, service_s: float, slots: int) -> None:
        command = [sys.executable, __file__, str(service_s), str(slots)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def count_asked(self) -> int:
        """Return how many chats it has received."""
        with urllib.request.urlopen(f"{self.url}/asked", timeout=5) as reply:
            return int(reply.read())

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    main(*sys.argv[1:])
