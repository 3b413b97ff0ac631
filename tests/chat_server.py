"""
A small server of the tests' own that speaks as much of Ollama's wire as a session needs, over
`http.server`. It shares no code with the scripted server, so that it shares none of its beliefs.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from urisk_nb import process_state

LABEL = '{"risk":"legal","severity":2}'


class SmallOllama(ThreadingHTTPServer):
    """
    Answers chats by a function of their body, and keeps the bodies.

    The function returns what the message's fields are: `content`, `thinking`, and beside them
    `done_reason` and counters; or a number, the status of a refusal. A list is a stream of such
    pieces.
    """

    daemon_threads = True

    def __init__(self, answer, *, name="llama3.1:latest", version="0.12.0"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.name, self.version = answer, name, version
        self.chats = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, address):
        """A client that leaves is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the body waits 40 ms for the client to confirm the headers
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Nothing is said."""

    def do_GET(self):
        models = [{"name": self.server.name, "model": self.server.name, "digest": "d" * 64}]
        replies = {
            "/api/version": {"version": self.server.version},
            "/api/tags": {"models": models},
            "/api/ps": {"models": []},
        }
        self._send(200 if self.path in replies else 404, replies.get(self.path, {}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/show":
            self._send(200, {"capabilities": ["completion"], "model_info": {}})
        elif not body.get("messages"):
            self._send(200, {"done": True, "done_reason": "load", "message": {"content": ""}})
        else:
            self.server.chats.append(body)
            self._chat(self.server.answer(body))

    def _chat(self, answer):
        if isinstance(answer, int):
            self._send(answer, {"error": f"refused with {answer}"})
            return
        *pieces, last = answer if isinstance(answer, list) else [answer]
        last = {"content": last} if isinstance(last, str) else last
        message = {name: last[name] for name in ("content", "thinking") if name in last}
        end = {"done": True, "done_reason": "stop", "eval_count": 5, "prompt_eval_count": 900}
        end |= {name: value for name, value in last.items() if name not in message}
        lines = [{"message": piece, "done": False} for piece in pieces]
        lines += [{"message": message, "done": False}, {"message": {"content": ""}, **end}]
        self._send(200, *lines)

    def _send(self, status, *contents):
        data = b"".join(json.dumps(one).encode() + b"\n" for one in contents)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serve(answer, **rest):
    """A small server, and at the end no session of this process."""
    with SmallOllama(answer, **rest) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            if (manager := process_state.get("manager")) is not None:
                manager.shutdown_sync()
            server.shutdown()
            thread.join()
