"""
A small server that speaks Ollama's wire, for one test: http.server and nothing of the fake Ollama,
so that it shares none of its assumptions.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MB = 1_000_000


class PlainOllama(ThreadingHTTPServer):
    """
    A server in threads of this process; a context manager.

    Attributes
    ----------
    models
        The names that it lists; a pull that ends well adds one.
    cut_pulls
        How many pulls break in the middle of the stream before one ends well.
    kept_bytes
        What has arrived of the layer, over all pulls.
    seen
        Each request: path and JSON body.
    answer
        What a chat answers.
    """

    daemon_threads = True

    def __init__(self, models=("llama3.1:latest",), cut_pulls=0, answer="Fine."):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models, self.cut_pulls, self.answer = list(models), cut_pulls, answer
        self.kept_bytes, self.seen, self.headers_seen = 0, [], []
        self.list_delay_s = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join(5)

    def handle_error(self, *_):
        """A client that leaves is no error of the server."""

    def bodies(self, path):
        return [body for one, body in self.seen if one == path]

    @property
    def prompts(self):
        """The user's words of each chat."""
        chats = [body["messages"] for body in self.bodies("/api/chat") if body["messages"]]
        return [messages[-1]["content"] for messages in chats]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the body waits 40 ms for the client to confirm the headers
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, None))
        entries = [{"name": name, "digest": name, "size": MB} for name in self.server.models]
        if self.path == "/api/tags" and self.server.list_delay_s:
            threading.Event().wait(self.server.list_delay_s)
        found = {
            "/api/version": {"version": "0.33.0"},
            "/api/tags": {"models": entries},
            "/api/ps": {"models": entries[:1]},
        }
        self.reply(found.get(self.path, {"error": "page not found"}), self.path in found)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.server.seen.append((self.path, body))
        if self.path == "/api/show":
            self.reply({"capabilities": ["completion"], "model_info": {}})
        elif self.path == "/api/pull":
            self.stream(self.pull(body["model"]))
        elif self.path == "/api/chat":
            self.stream(self.chat(body))
        else:
            self.reply({"error": "page not found"}, False)

    def reply(self, content, is_there=True):
        data = json.dumps(content).encode()
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, items):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for item in items:
            if item is None:  # the connection breaks: no last chunk
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(2)
                return
            data = json.dumps(item).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def pull(self, model):
        yield {"status": "pulling manifest"}
        for _ in range(3 if self.server.cut_pulls else 10):
            self.server.kept_bytes = min(10 * MB, self.server.kept_bytes + MB)
            layer = {"digest": "sha256:1a2b", "total": 10 * MB}
            yield {"status": "pulling 1a2b", **layer, "completed": self.server.kept_bytes}
        if self.server.cut_pulls:
            self.server.cut_pulls -= 1
            yield None
        self.server.models.append(model if ":" in model else f"{model}:latest")
        yield {"status": "success"}

    def chat(self, body):
        if body["messages"]:
            word = {"role": "assistant", "content": self.server.answer}
            yield {"model": body["model"], "message": word, "done": False}
        end = {"done": True, "done_reason": "stop", "eval_count": 2, "prompt_eval_count": 30}
        yield {"model": body["model"], "message": {"role": "assistant", "content": ""}, **end}
