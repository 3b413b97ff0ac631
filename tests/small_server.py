"""
Servers of a test's own, as small as they get: http.server on 127.0.0.1, in a thread. They share
nothing with the fake Ollama.
"""

import contextlib
import gzip
import http.server
import json
import socket
import threading
import zlib

from urisk_nb import event_loop
from urisk_nb.llm.client import Client
from urisk_nb.settings import load

CHUNKS = [
    {"message": {"role": "assistant", "content": "Ask "}, "done": False},
    {"message": {"role": "assistant", "content": "why."}, "done": False},
    {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
]
LINES = [json.dumps(chunk).encode() + b"\n" for chunk in CHUNKS]


class Handler(http.server.BaseHTTPRequestHandler):
    """An Ollama as small as it gets: a version, a list of models, a streamed answer."""

    protocol_version = "HTTP/1.1"
    # Else the body waits 40 ms for the client to confirm the headers
    disable_nagle_algorithm = True
    prefix = ""
    encoding = ""  # of the streamed answer
    wanted = None  # a header and its value, or 401

    def do_GET(self):
        self.answer()

    do_POST = do_HEAD = do_GET  # noqa: N815  named by http.server

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers))
        if self.wanted and self.headers.get(self.wanted[0]) != self.wanted[1]:
            self.reply(401, b'{"error":"who are you?"}')
        elif self.path == f"{self.prefix}/api/version":
            self.reply(200, b'{"version":"0.33.0"}')
        elif self.path == f"{self.prefix}/api/tags":
            self.reply(200, b'{"models":[{"name":"llama3.1:latest"}]}')
        elif self.path == f"{self.prefix}/api/chat":
            self.stream()
        else:
            self.reply(404, b"404 page not found", "text/plain")

    def reply(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        if self.encoding:
            name = ENCODINGS.get(self.encoding, (self.encoding,))[0]
            self.send_header("Content-Encoding", name)
        self.end_headers()
        for data in compress(LINES, self.encoding):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


ENCODINGS = {  # by what a test calls it: the name in the header, and how zlib packs it
    "gzip": ("gzip", 31),
    "x-gzip": ("x-gzip", 31),
    "members": ("gzip", 31),
    "gzip, gzip": ("gzip, gzip", 31),
    "deflate": ("deflate", 15),
    "bare deflate": ("deflate", -15),
}


def compress(parts, encoding):
    """
    The parts, each flushed, as a proxy compresses a stream; `members`: each part by itself, and all
    of them cut anew.
    """
    if encoding not in ENCODINGS:
        return parts
    if encoding == "members":
        whole = b"".join(map(gzip.compress, parts))
        return [whole[at : at + 50] for at in range(0, len(whole), 50)]
    for _ in encoding.split(","):
        packer = zlib.compressobj(wbits=ENCODINGS[encoding][1])
        sync = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in parts]
        parts = [*sync, packer.flush()]
    return parts


class Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET


class Listener6(Listener):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def serve(host="127.0.0.1", port=0, trust=None, handler=Handler, **traits):
    """A server whose handler has these traits; `.url`, and `.seen`: the requests that came."""
    kind = Listener6 if ":" in host else Listener
    server = kind((host, port), type("Own", (handler,), traits))
    server.seen = []
    server.handle_error = lambda *_: None  # a client that goes away is no trouble
    if trust is not None:
        server.socket = trust.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.port = server.server_address[1]
    name = f"[{host}]" if ":" in host else host
    server.url = f"http{'s' if trust else ''}://{name}:{server.port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def says(status, body=b"", kind="application/json", **headers):
    """A handler that gives everyone this reply."""

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers))
        self.reply(status, body, kind, **headers)

    return type("Says", (Handler,), {"answer": answer})


async def _talk(settings, work):
    client = Client(settings)
    try:
        return await work(client)
    finally:
        await client.aclose()


def probe(url=None, **flags):
    """The version that is found over the settings' address."""
    return event_loop.run(_talk(load(url=url, **flags), lambda client: client.probe()))


def chat(url=None, **flags):
    """The text of an answer, found by a client that has not been asked before."""

    async def work(client):
        texts = []
        await client.probe()
        await client.chat(b"{}", lambda chunk: texts.append(chunk.text))
        return "".join(texts)

    return event_loop.run(_talk(load(url=url, **flags), work))


def chat_only(url=None, **flags):
    """What a chat says in the middle of a run, without a probe before."""
    return event_loop.run(_talk(load(url=url, **flags), lambda client: client.chat(b"{}")))


def show(error):
    return f"{type(error).__name__}: {error}"


def page(title):
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode()
