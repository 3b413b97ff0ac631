"""The app under a real uvicorn, and what the model server behind it answers."""

import inspect
import json
import socket
import threading

import httpx
import uvicorn

from harness import eventually
from urisk_nb import errors
from urisk_nb.service import create_app

SCENARIO = {
    "slots": 4,
    "rules": [
        {"contains": "slow", "answer": "word " * 2000, "token_ms": 5},
        {"contains": "breaks", "answer": ["so ", "far "], "ends": "reset"},
        {"contains": "stops early", "answer": ["so ", "far "], "ends": "cut"},
        {
            "contains": "full",
            "status": 503,
            "error": "server busy, please try again.  maximum pending requests exceeded",
        },
        {
            "contains": "too long",
            "status": 400,
            "error": "the input length exceeds the context length",
        },
        {"contains": "page", "answer": "<script>alert(1)</script>"},
        {"contains": "half", "answer": ["\ud83d"]},
        {"contains": "never judged", "answer": "word " * 2000, "token_ms": 500},
    ],
}
KINDS = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.UriskError)
]
EVIDENCE = [
    {
        "ticker": "AAA",
        "text": "AAA was fined 3 billion euros by the court.",
        "date": "2024-01-03",
        "source": "wire",
    },
    {"ticker": "BBB", "text": "BBB opened a shop. It was sued over a patent."},
]
PRICES = {
    "dates": [f"2024-01-{day:02}" for day in range(1, 29)],
    "columns": {"AAA": [100.0 + day % 5 for day in range(28)]},
}


class Served:
    """The app under uvicorn in a thread of this process."""

    def __init__(self, **options):
        self.app = create_app(**options)
        for kind in KINDS:
            self.app.add_api_route(
                f"/raise/{kind.__name__}", self._raising(kind), include_in_schema=False
            )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(self.app, lifespan="on", log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    @staticmethod
    def _raising(kind):
        async def route():
            raise kind("seen 3, wanted 4.", fix="do this", left_s=2.5)

        return route

    def stop(self):
        self.http.close()
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.listener.close()

    def ready(self, path="/health/llm"):
        return eventually(lambda: self.http.get(path).status_code == 200, 15, f"200 of {path}")

    def ask(self, prompt, **more):
        return self.http.post("/chat", json={"prompt": prompt, **more})

    def metric(self, name):
        return metric_value(self.http.get("/metrics").text, name)


def metric_value(text, name):
    """The value of a figure of /metrics, 0 where there is none yet."""
    return next(
        (
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"{name} ")
        ),
        0.0,
    )


def chats(fake_ollama):
    """How often the model server was asked for an answer."""
    return fake_ollama.counters()["paths"].get("/api/chat", 0)


def lines_of(reply):
    return [json.loads(line) for line in reply.iter_lines() if line]
