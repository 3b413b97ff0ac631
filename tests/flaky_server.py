"""
A model server with faults, as a program of its own: what a run must survive happens here for real.

It speaks Ollama's wire as far as a run needs it, and shares no code with the client or with
`fake_ollama`. `FlakyServer` starts it, kills it and starts it again; each request about a sentence
is a line in its log.
"""

import contextlib
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from harness import eventually, free_port

MODEL = "llama3.1:latest"
CRASH, BOOM, BABBLE, REFUSED = "crashes", "explodes", "babbles", "is forbidden"
RISKS = ("market", "credit", "legal", "business")


def expected_label(text):
    """The risk and the severity that the server gives a sentence."""
    number = sum(text.encode())
    return RISKS[number % len(RISKS)], 1 + number % 3


# The program --------------------------------------------------------------------------------------


class Runner:
    """The process that holds the model: when it ends, every answer in progress ends with it."""

    def __init__(self):
        self.ended = threading.Event()
        self.is_loaded = True
        self.lock = threading.Lock()

    def crash(self):
        self.is_loaded = False
        ended, self.ended = self.ended, threading.Event()
        ended.set()

    def load(self):
        with self.lock:
            if not self.is_loaded:
                time.sleep(0.03)
                self.is_loaded = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the body waits 40 ms for the client to confirm the headers
    disable_nagle_algorithm = True
    folder, service_s, slots, runner, digest = Path(), 0.0, None, Runner(), "d1"

    def log_message(self, *_):
        pass

    def send(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.is_busy(everywhere=True):
            return
        model = {"name": MODEL, "model": MODEL, "digest": self.digest, "size": 1, "details": {}}
        replies = {"/api/version": {"version": "0.12.3"}, "/api/tags": {"models": [model]}}
        self.send(200, replies[self.path]) if self.path in replies else self.send(404, {})

    def is_busy(self, *, everywhere):
        """Answer 503 where the test wants it, of chats alone or of everything."""
        mode = self.folder / "mode"
        word = mode.read_text() if mode.exists() else ""
        if word == "busy everywhere" or (word == "busy" and not everywhere):
            self.send(503, {"error": "server busy, please try again"})
            return True
        return False

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/show":
            self.send(200, {"capabilities": ["completion"], "model_info": {}})
        elif not body["messages"]:
            if not self.is_busy(everywhere=True):
                self.runner.load()
                self.send(200, {"model": MODEL, "done": True, "done_reason": "load"})
        elif not self.is_busy(everywhere=False):
            self.answer(body["messages"])

    def note(self, what, text):
        """Append a line in one write, so that none is lost or cut by a kill."""
        with (self.folder / "log").open("ab", buffering=0) as log:
            log.write(f"{what}\t{text}\n".encode())

    def answer(self, messages):
        is_repair = "wanted form" in messages[-1]["content"]
        text = messages[-3 if is_repair else -1]["content"]
        self.note("repair" if is_repair else "asked", text)
        with self.slots:
            self.runner.load()
            ended = self.runner.ended
            if CRASH in text:
                time.sleep(self.service_s / 2)
                self.runner.crash()
            if ended.wait(self.service_s):
                return self.send(
                    500, {"error": "llama runner process has terminated: exit status 2"}
                )
        if BOOM in text:
            return self.send(500, {"error": "something odd"})
        if REFUSED in text:
            return self.send(400, {"error": "blocked by a filter"})
        risk, severity = expected_label(text)
        said = "no idea" if BABBLE in text else json.dumps({"risk": risk, "severity": severity})
        chunk = {"model": MODEL, "message": {"role": "assistant", "content": said}, "done": False}
        end = {
            **chunk,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 900,
            "eval_count": 9,
        }
        self.send(200, json.dumps(chunk).encode() + b"\n" + json.dumps(end).encode() + b"\n")
        self.note("answered", text)
        return None


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 64

    def handle_error(self, *_):
        pass  # the client has left


def main(folder, port, service_s, slots, digest):
    Handler.folder, Handler.service_s, Handler.digest = Path(folder), float(service_s), digest
    Handler.slots = threading.Semaphore(int(slots))
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


# Its owner ----------------------------------------------------------------------------------------


class FlakyServer:
    """The program, as a supervisor has it: it may be killed, and started again at its address."""

    def __init__(self, folder, service_s=0.005, slots=4, digest="d1"):
        self.folder, self.service_s, self.slots = Path(folder), service_s, slots
        self.digest = digest
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self):
        given = (self.folder, self.port, self.service_s, self.slots, self.digest)
        command = [sys.executable, __file__, *given]
        self.process = subprocess.Popen(list(map(str, command)), cwd=Path(__file__).parent)
        eventually(self.answers, 20, "the server")

    def answers(self):
        import socket

        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def hang(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def set_mode(self, word):
        """`busy` (503 to chats), `busy everywhere`, or nothing."""
        (self.folder / "next").write_text(word)
        (self.folder / "next").replace(self.folder / "mode")

    def log(self):
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(line.split("\t", 1)) for line in lines]

    def asked(self):
        return [text for what, text in self.log() if what == "asked"]

    def most_in_flight(self):
        """How many requests were asked and not yet answered, at the most."""
        now = most = 0
        for what, _ in self.log():
            now += -1 if what == "answered" else 1
            most = max(most, now)
        return most

    def asked_after_answer(self):
        """The sentences that were asked although their answer had been given."""
        answered, again = set(), []
        for what, text in self.log():
            if what == "answered":
                answered.add(text)
            elif what == "asked" and text in answered:
                again.append(text)
        return again


if __name__ == "__main__":
    main(*sys.argv[1:])
