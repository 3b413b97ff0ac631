"""
The service over HTTP: a real uvicorn, the stand-in behind it (its answers are SCRIPTED), and
callers that leave, flood and lie.
"""

import asyncio
import contextlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest
from fake_ollama_env import Laboratory, gone

from harness import ROOT, FakeOllama, alive, eventually

pytest.importorskip("fastapi", reason="the extra `service` is not installed")
pytest.importorskip("uvicorn", reason="the extra `service` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `service` is not installed")

import uvicorn

from urisk_nb import LLMManager, assess, errors, process_state
from urisk_nb.service import create_app, status_of

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

    def figure(self, name):
        return figure(self.http.get("/metrics").text, name)


def figure(text, name):
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


@pytest.fixture(scope="module")
def fake_ollama(tmp_path_factory):
    path = tmp_path_factory.mktemp("service") / "scenario.json"
    path.write_text(json.dumps(SCENARIO))
    server = FakeOllama("--scenario", str(path))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(fake_ollama):
    served = Served(url=fake_ollama.url, max_retries=0, parallel=4, max_body_bytes=200_000)
    served.ready()
    yield served
    served.stop()
    assert process_state.get("manager") is None


@pytest.fixture
def another(service):
    """More apps over the same session; what is given is closed again."""
    made = []

    def make(**options):
        made.append(Served(**options))
        return made[-1]

    yield make
    for served in made:
        served.stop()


# Errors -------------------------------------------------------------------------------------------

# Of whoever runs the service
MISTAKES = {"UriskError", "SettingsError", "PackageMissing", "WrongThread", "ForkedError"}
EXPECTED = {
    **dict.fromkeys(MISTAKES, 500),
    **dict.fromkeys(
        ("InputError", "BadRequest", "ModelNameInvalid", "ModelUnsuitable", "ContextExceeded"), 422
    ),
    **dict.fromkeys(
        (
            "ServerError",
            "OllamaNotInstalled",
            "ServerNotRunning",
            "ServerStartFailed",
            "ProgramBroken",
            "HomeNotWritable",
        ),
        503,
    ),
    **dict.fromkeys(
        (
            "ServerCrashLoop",
            "ServerTooOld",
            "PortTaken",
            "ServerOwnedByOtherUser",
            "ServerConnectionLost",
            "CircuitOpen",
            "ServerBusy",
        ),
        503,
    ),
    **dict.fromkeys(("NotInitialized", "ServerNotManaged"), 503),
    **dict.fromkeys(
        (
            "StreamInterrupted",
            "RunnerCrashed",
            "ServerInternalError",
            "ProtocolError",
            "AnswerIncomplete",
            "PullFailed",
        ),
        502,
    ),
    **dict.fromkeys(("ModelError", "FetchFailed"), 502),
    **dict.fromkeys(("ServerTimeout", "ServerHung"), 504),
    **dict.fromkeys(("OutOfMemory", "ModelTooLarge", "DiskFull"), 507),
    "ModelNotFound": 404,
    "CloudModelBlocked": 403,
}


def test_every_error_has_its_status(service):
    """
    All errors of the package: the status of the table, and name, message and fix as JSON; a known
    wait is in Retry-After.
    """
    assert {kind.__name__ for kind in KINDS} == set(EXPECTED)
    for kind in KINDS:
        reply = service.http.get(f"/raise/{kind.__name__}")
        assert (kind.__name__, reply.status_code) == (kind.__name__, EXPECTED[kind.__name__])
        assert status_of(kind("m", fix="f")) == EXPECTED[kind.__name__]
        assert reply.json() == {
            "error": kind.__name__,
            "message": "seen 3, wanted 4.",
            "fix": "do this",
        }
        assert reply.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("prompt", "status", "error"),
    [
        ("full", 503, "ServerBusy"),
        ("too long", 422, "ContextExceeded"),
        ("breaks", 502, "StreamInterrupted"),
    ],
)
def test_an_error_of_the_server_is_told(service, prompt, status, error):
    """
    What the model server refuses or breaks is an error of ours with its status; streamed, too,
    where it comes before the first piece.
    """
    reply = service.ask(prompt)
    assert (reply.status_code, reply.json()["error"]) == (status, error)
    assert reply.json()["fix"]
    if status != 502:
        assert service.ask(prompt, stream=True).status_code == status


# /chat --------------------------------------------------------------------------------------------


def test_chat(service):
    """An answer with who gave it and where its time went; a system prompt and options are taken."""
    reply = service.ask(
        "hello",
        system_prompt="Be brief.",
        options={"temperature": 0, "num_predict": 3, "seed": 1, "stop": ["x"]},
    )
    answer = reply.json()
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert (answer["engine"], answer["llama3.1"], answer["done_reason"], answer["model"]) == (
        "llama3.1",
        True,
        "length",
        "llama3.1",
    )
    assert answer["text"]
    assert answer["timing"]["tokens"] == 3
    assert answer["timing"]["total_s"] > 0


def test_chat_in_pieces(service):
    """NDJSON: a piece a line as it comes, then the whole answer, which is the pieces joined."""
    with service.http.stream("POST", "/chat", json={"prompt": "hello", "stream": True}) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        *pieces, last = lines_of(reply)
    assert len(pieces) > 3
    assert "".join(line["piece"] for line in pieces) == last["text"]
    assert last["llama3.1"] is True


def test_the_first_piece_does_not_wait_for_the_last(service):
    """A slow answer's first piece is there at once."""
    began = time.monotonic()
    with service.http.stream("POST", "/chat", json={"prompt": "slow", "stream": True}) as reply:
        assert json.loads(next(reply.iter_lines())) == {"piece": "word"}
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("prompt", "error"), [("breaks", "StreamInterrupted"), ("stops early", "AnswerIncomplete")]
)
def test_an_error_in_the_middle_is_the_last_line(service, prompt, error):
    """The pieces that had come, then the error in a line of its own; counted."""
    name = f'urisk_errors_total{{kind="{error}"}}'
    before = service.figure(name)
    with service.http.stream("POST", "/chat", json={"prompt": prompt, "stream": True}) as reply:
        *pieces, last = lines_of(reply)
    assert "".join(line["piece"] for line in pieces) == "so far "
    assert set(last) == {"error", "message", "fix"}
    assert last["error"] == error
    assert service.figure(name) == before + 1


def leave(service, fake_ollama, path, body, after_line):
    """Ask, read one line or nothing, and close the connection while the server is at it."""
    with socket.create_connection(("127.0.0.1", service.listener.getsockname()[1]), 10) as wire:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        wire.sendall(head.encode() + content)
        if after_line:
            assert wire.recv(10_000).startswith(b"HTTP/1.1 200")
        eventually(lambda: fake_ollama.counters()["in_flight"], 5, "the call at the server")


RUN = {"tickers": ["AAA", "CCC"], "evidence": [{"ticker": "AAA", "text": "It was never judged."}]}


@pytest.mark.parametrize(
    ("path", "body", "after_line"),
    [
        ("/chat", {"prompt": "slow"}, False),
        ("/chat", {"prompt": "slow", "stream": True}, True),
        ("/risk", RUN, True),
        ("/risk", {**RUN, "tickers": ["AAA"]}, False),
    ],
)
def test_a_caller_that_leaves_stops_the_generation(service, fake_ollama, path, body, after_line):
    """The server aborts, nothing stays in flight, and the next call is answered."""
    before = fake_ollama.counters()["aborted"]
    leave(service, fake_ollama, path, body, after_line)
    eventually(lambda: fake_ollama.counters()["aborted"] > before, 5, "the abort on the server")
    # The look at the figures itself
    eventually(lambda: service.figure("urisk_in_flight") == 1, 5, "the end of the request")
    assert service.ask("hello").status_code == 200


def test_what_a_model_says_is_data(service):
    """No answer is HTML, whatever is in it; half a character pair is still JSON."""
    reply = service.ask("page")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["text"] == "<script>alert(1)</script>"
    assert service.http.get("/docs").status_code == 404
    assert service.ask("half").status_code == 200


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a", "more": 1}, "more"),
        ({"prompt": "a", "options": {"num_ctx": 9}}, "num_ctx"),
        ({"prompt": "a", "options": {"temperature": "hot"}}, "temperature"),
        ({"prompt": "a", "options": {"seed": 10**400}}, "seed"),
        ([], ""),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(service, fake_ollama, body, seen):
    """422 with what was seen and a fix, before the server is asked."""
    before = chats(fake_ollama)
    reply = service.http.post("/chat", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"] == "InputError"
    assert seen in reply.json()["message"]
    assert reply.json()["fix"]
    assert chats(fake_ollama) == before


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "options": {"temperature": NaN}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_body_that_is_no_json_is_refused(service, content):
    """4xx with name, message and fix; never a mistake of ours."""
    reply = service.http.post(
        "/chat", content=content, headers={"content-type": "application/json"}
    )
    assert reply.status_code in (400, 422)
    assert set(reply.json()) == {"error", "message", "fix"}


# /risk --------------------------------------------------------------------------------------------


def test_risk_is_what_assess_gives(service):
    """
    The rows, each with its judged sentences, and the run's record; the values are those of `assess`
    in Python.
    """
    weights = {"AAA": 0.6, "BBB": 0.4}
    body = {
        "tickers": weights,
        "prices": PRICES,
        "evidence": EVIDENCE,
        "params": {"alpha": [0.05, 0.01]},
        "benchmark": "AAA",
    }
    with service.http.stream("POST", "/risk", json=body) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        *rows, last = lines_of(reply)
    found = {line["row"]["ticker"]: line for line in rows}
    assert set(found) == {"AAA", "BBB"}
    frame = {"date": PRICES["dates"], "AAA": PRICES["columns"]["AAA"]}
    import pandas as pd

    table = assess(
        weights, prices=pd.DataFrame(frame), evidence=EVIDENCE, params=None, benchmark="AAA"
    )
    for ticker, line in found.items():
        for name in ("score", "level", "vol_ann", "var_95", "max_dd", "weight", "top_quote"):
            mine, theirs = line["row"][name], table.loc[ticker, name]
            assert mine == theirs or (mine is None and pd.isna(theirs)), name
    assert [one["quote"] for one in found["AAA"]["findings"]] == [EVIDENCE[0]["text"]]
    assert found["AAA"]["row"]["flags"].count("llama3.1") == 1
    assert last["run"]["params"]["alpha"] == [0.05, 0.01]
    assert last["run"]["served_by"]["engine"] == "llama3.1"


def test_long_prices(service):
    """Rows of date, ticker and close do as well."""
    rows = [
        {"date": day, "ticker": "AAA", "close": close}
        for day, close in zip(PRICES["dates"], PRICES["columns"]["AAA"], strict=True)
    ]
    first, last = lines_of(service.http.post("/risk", json={"tickers": ["AAA"], "prices": rows}))
    wide, _ = lines_of(service.http.post("/risk", json={"tickers": ["AAA"], "prices": PRICES}))
    assert {**first["row"], "run_id": ""} == {**wide["row"], "run_id": ""}
    assert "run" in last


def test_a_ticker_that_is_done_does_not_wait_for_the_others(service):
    """The first row is there while another ticker's sentence is still being judged."""
    began = time.monotonic()
    evidence = [*EVIDENCE, {"ticker": "CCC", "text": "It was never judged."}]
    with service.http.stream(
        "POST", "/risk", json={"tickers": ["AAA", "CCC"], "evidence": evidence}
    ) as reply:
        line = json.loads(next(reply.iter_lines()))
    assert (line["row"]["ticker"], line["row"]["status"]) == ("AAA", "ok")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({"tickers": ["AAA"]}, "neither prices nor evidence"),
        ({"tickers": [], "evidence": EVIDENCE}, "no ticker"),
        ({"tickers": ["../etc"], "evidence": EVIDENCE}, "../etc"),
        ({"tickers": ["AAA"], "evidence": [{"ticker": "AAA"}]}, "text"),
        ({"tickers": ["AAA"], "evidence": "/etc/passwd"}, "evidence"),
        ({"tickers": ["AAA"], "prices": "/etc/passwd"}, "prices"),
        ({"tickers": ["AAA"], "evidence": EVIDENCE, "params": {"alfa": 0.05}}, "alpha"),
        ({"tickers": ["AAA"], "evidence": EVIDENCE, "params": {"alpha": 5}}, "alpha"),
        ({"tickers": ["AAA"], "evidence": EVIDENCE, "params": {"model": "huge:405b"}}, "huge:405b"),
        (
            {"tickers": ["AAA"], "prices": {"dates": ["2024-01-01"], "columns": {"AAA": [1, 2]}}},
            "2 values for 1 dates",
        ),
        (
            {"tickers": ["AAA"], "prices": {"dates": ["someday"], "columns": {"AAA": [1]}}},
            "someday",
        ),
        (
            {
                "tickers": ["AAA"],
                "prices": [{"date": "2024-01-01", "ticker": {"a": 1}, "close": 1}],
            },
            "prices",
        ),
        ({"tickers": ["AAA"], "prices": []}, "empty"),
    ],
)
def test_bad_input_is_refused_before_any_server_is_asked(service, fake_ollama, body, seen):
    """422 with the message and the fix that `assess` has; no file of the machine is read."""
    before = chats(fake_ollama)
    reply = service.http.post("/risk", json=body)
    assert (reply.status_code, reply.json()["error"]) == (422, "InputError")
    assert seen in reply.json()["message"] + reply.json()["fix"]
    assert chats(fake_ollama) == before


# Health and figures -------------------------------------------------------------------------------


def test_health_of_a_service_that_is_well(service, fake_ollama):
    """Three times 200 with what answers, and nothing was generated."""
    before = chats(fake_ollama)
    assert service.http.get("/health").json()["status"] == "alive"
    ollama = service.http.get("/health/ollama").json()
    assert ollama == {"status": "ready", "state": "external", "version": "0.0.0-urisk-scripted"}
    assert service.http.get("/health/llm").json() == {
        "status": "ready",
        "model": "llama3.1",
        "engine": "llama3.1",
        "llama3.1": True,
    }
    assert chats(fake_ollama) == before


def test_figures(service):
    """
    Calls by route and status, errors by kind, latencies, what is in flight, restarts and the
    breaker.
    """
    name = 'urisk_calls_total{route="/chat",status="200"}'
    before = service.figure(name)
    service.ask("hello")
    service.http.get("/nowhere")
    text = service.http.get("/metrics").text
    assert figure(text, name) == before + 1
    assert figure(text, 'urisk_call_seconds_count{route="/chat"}') >= 1
    assert figure(text, 'urisk_calls_total{route="other",status="404"}') >= 1
    assert figure(text, "urisk_first_token_seconds_count") >= 1
    assert figure(text, "urisk_in_flight") == 1
    assert "urisk_server_restarts 0.0" in text
    assert figure(text, 'urisk_breaker_state{urisk_breaker_state="closed"}') == 1


# Who may ask, and how much ------------------------------------------------------------------------


def test_a_token_is_asked_of_everybody(another, service):
    """
    Every route but /health wants the very token; a session that ran before is used and left
    running.
    """
    before = LLMManager.get_instance()
    guarded = another(token="a-long-secret")
    assert guarded.http.get("/health").status_code == 200
    for header in (
        {},
        {"Authorization": "Bearer a-long-secre"},
        {"Authorization": "Basic a-long-secret"},
        {"Authorization": "Bearer"},
    ):
        for path in ("/metrics", "/health/llm", "/openapi.json", "/nowhere"):
            reply = guarded.http.get(path, headers=header)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert (
            guarded.http.post("/chat", json={"prompt": "hello"}, headers=header).status_code == 401
        )
    good = {"Authorization": "Bearer a-long-secret"}
    assert guarded.http.post("/chat", json={"prompt": "hello"}, headers=good).status_code == 200
    assert (
        guarded.http.get("/health/llm", headers={**good, "Host": "risk.example"}).status_code == 200
    )
    guarded.stop()
    assert LLMManager.get_instance() is before
    assert service.ask("hello").status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "127.evil.example",
        "localhost.evil.example:80",
        "10.0.0.1",
        "",
    ],
)
def test_a_stranger_by_name_is_refused(service, host):
    """A page that was made to resolve to loopback names itself in Host, and is refused."""
    reply = service.http.get("/health", headers={"Host": host})
    assert (reply.status_code, reply.json()["error"]) == (403, "Forbidden")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "127.0.0.2", "[::1]:80"]
)
def test_loopback_by_any_name_is_welcome(service, host):
    """As a caller on this machine spells it."""
    assert service.http.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_web_page_can_send_unasked_is_refused(service, kind):
    """
    Only application/json, which a browser does not send to another site without asking; and nobody
    is told that it may.
    """
    reply = service.http.post(
        "/chat",
        content=b'{"prompt": "hello"}',
        headers={"content-type": kind, "Origin": "https://evil.example"},
    )
    assert reply.status_code == 415
    asked = service.http.options(
        "/chat", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_body_that_is_too_large_is_refused(service):
    """413, whether its length is said before or not, and the service goes on."""
    body = json.dumps({"prompt": "x" * 300_000}).encode()
    kind = {"content-type": "application/json"}
    assert service.http.post("/chat", content=body, headers=kind).status_code == 413
    assert service.http.post("/chat", content=iter([body]), headers=kind).status_code == 413
    assert service.ask("hello").status_code == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 900000", b""),
        ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (250_000, b" " * 250_000)),
    ],
)
def test_a_large_body_is_not_waited_for(service, head, body):
    """413 as soon as it is known that it is too large, not when all of it has been taken."""
    with socket.create_connection(("127.0.0.1", service.listener.getsockname()[1]), 5) as wire:
        wire.sendall(
            f"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            f"application/json\r\n{head}\r\n\r\n".encode()
            + body
        )
        assert wire.recv(100).startswith(b"HTTP/1.1 413")


def test_so_many_wait_and_no_more(another):
    """
    One over the limit is told to come again; the health routes still answer; when one has left
    there is room.
    """
    narrow = another(max_calls=1)
    with narrow.http.stream("POST", "/chat", json={"prompt": "slow", "stream": True}) as reply:
        lines = reply.iter_lines()  # held: the end of the iterator would end the call
        next(lines)
        refused = narrow.ask("hello")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert narrow.http.get("/health/llm").status_code == 200
    eventually(lambda: narrow.ask("hello").status_code == 200)


# As a program -------------------------------------------------------------------------------------


class Program:
    """`urisk serve` as a process."""

    def __init__(self, env, *words):
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OLLAMA_", "URISK_"))
        }
        command = [sys.executable, "-m", "urisk_nb.cli", "serve", "--port", "0", *words]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**clean, **env},
            start_new_session=True,
        )
        line = self.process.stdout.readline()
        self.url = line.split()[3].rstrip(";")
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def status(self, path):
        return self.http.get(path).status_code

    def ready(self):
        eventually(lambda: self.status("/health/llm") == 200, 20, "the model's being ready")

    def end(self, number=signal.SIGTERM):
        """Send the signal; exit status and what was written to stderr."""
        self.http.close()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture
def program(tmp_path):
    """
    Programs in a laboratory, where `ollama` is the stand-in; ended by force where the test did not.
    """
    lab = Laboratory(tmp_path, None)
    made = []

    def start(*words, **env):
        made.append(Program({**lab.env, **env}, *words))
        return made[-1]

    start.lab = lab
    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
        one.http.close()


def urisk_serve(*words, **env):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "URISK_"))
    }
    command = [sys.executable, "-m", "urisk_nb.cli", "serve", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env={**clean, **env}, timeout=60, cwd=ROOT
    )


@pytest.mark.slow
def test_serve_refuses_in_two_lines(tmp_path):
    """
    Open to others without a token; a port that is taken; no server and nothing to start: status 1,
    what was seen, what to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = [
            (
                ("--host", "0.0.0.0", "--engine", "llama3.1"),
                "InputError: 0.0.0.0 can be reached by others",
                {},
            ),
            (("--port", str(taken.getsockname()[1])), "InputError", {}),
            (
                ("--port", "0", "--url", "http://127.0.0.1:9"),
                "ServerNotRunning",
                {"OLLAMA_AUTO_START": "false"},
            ),
            (("--port", "0", "--url", "nowhere:1:2"), "SettingsError", {}),
        ]
        for words, seen, env in cases:
            done = urisk_serve(*words, **env)
            lines = done.stderr.strip().splitlines()
            assert (done.returncode, len(lines)) == (1, 2), done.stderr
            assert lines[0].startswith(seen)
            assert lines[1].startswith("  Fix: ")


@pytest.mark.slow
def test_a_missing_package_is_named():
    """Without FastAPI the rest of the package works, and `urisk serve` says what to install."""
    code = "import sys; sys.modules['fastapi'] = None; from urisk_nb.cli import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "PackageMissing: the service needs fastapi" in done.stderr
    assert 'pip install "urisk-nb[service]"' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(program, number):
    """
    Status 0 and nothing said; a call under way is told why it ends; server and runner are gone.
    """
    served = program()
    served.ready()
    pids = program.lab.processes()
    with served.http.stream("POST", "/chat", json={"prompt": "slow", "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        served.process.send_signal(number)
        last = [json.loads(line) for line in lines if line][-1]
    assert last["error"] in ("ServerConnectionLost", "StreamInterrupted")
    _, said = served.process.communicate(timeout=20)
    assert (served.process.returncode, said) == (0, "")
    gone(pids, 2)


@pytest.mark.slow
def test_health_while_the_server_starts_and_loads(program):
    """
    The process lives at once; the server and the model are 503 with the reason until they are
    ready.
    """
    program.lab.plan(process={"ready_ms": 1500}, load_ms=1500)
    served = program()
    assert served.status("/health") == 200
    reply = served.http.get("/health/ollama")
    assert reply.status_code == 503
    eventually(lambda: served.status("/health/ollama") == 200, 15, "the server's answer")
    reply = served.http.get("/health/llm")
    assert (reply.status_code, reply.json()["error"]) == (503, "NotReady")
    assert "Loading" in reply.json()["message"]
    # Waits for the start
    assert served.http.post("/chat", json={"prompt": "hello"}).status_code == 200
    assert served.status("/health/llm") == 200
    assert served.end()[0] == 0


@pytest.mark.slow
def test_health_of_a_server_that_is_killed_and_one_that_hangs(program):
    """
    503 with the reason within 2 s, /health 200 throughout; ready again when the server is back.
    """
    served = program()
    served.ready()
    pid, _ = program.lab.processes()
    os.kill(pid, signal.SIGSTOP)
    for path in ("/health/ollama", "/health/llm"):
        began = time.monotonic()
        reply = served.http.get(path)
        assert (reply.status_code, reply.json()["error"]) == (503, "NotReady")
        assert time.monotonic() - began < 3
    assert served.status("/health") == 200
    os.kill(pid, signal.SIGCONT)
    served.ready()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: served.status("/health/ollama") == 503, 2, "the news of the crash")
    assert served.status("/health") == 200
    served.ready()
    assert figure(served.http.get("/metrics").text, "urisk_server_restarts") == 1
    assert served.end()[0] == 0


@pytest.mark.slow
def test_a_server_killed_in_the_middle(program):
    """
    Streams end with an error line, waiting calls with an answer or an error of ours; then it
    answers again; no orphan at the end.
    """
    served = program()
    served.ready()
    pids = program.lab.processes()
    with served.http.stream("POST", "/chat", json={"prompt": "slow", "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        os.kill(pids[0], signal.SIGKILL)
        last = [json.loads(line) for line in lines if line][-1]
    assert last["error"] == "StreamInterrupted"
    replies = asyncio.run(flood(served.url, 20))
    assert set(replies) == {200}
    more = program.lab.processes()
    assert more[0] != pids[0]
    assert served.end() == (0, "")
    gone({*pids, *more}, 2)


async def flood(url, times, prompt="hello"):
    """The statuses of so many calls at once."""
    async with httpx.AsyncClient(
        base_url=url, timeout=110, trust_env=False, limits=httpx.Limits(max_connections=None)
    ) as http:

        async def one():
            return (await http.post("/chat", json={"prompt": prompt})).status_code

        return await asyncio.gather(*[one() for _ in range(times)])


def memory_mb(pid):
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_thousand_at_once(program, fake_ollama, figure_shown):
    """
    1,000 concurrent calls: every one is answered, the memory is bounded, the breaker is closed,
    nothing stays in flight.
    """
    served = program("--url", fake_ollama.url, URISK_PARALLEL="4")
    served.ready()
    asyncio.run(flood(served.url, 20))
    before, began = memory_mb(served.process.pid), time.monotonic()
    replies = asyncio.run(flood(served.url, 1000))
    figure_shown("1,000 chats over the service", time.monotonic() - began)
    figure_shown(
        "1,000 chats over the service: more memory, MB", memory_mb(served.process.pid) - before
    )
    assert replies == [200] * 1000
    assert memory_mb(served.process.pid) - before < 150
    text = served.http.get("/metrics").text
    assert figure(text, 'urisk_calls_total{route="/chat",status="200"}') == 1020
    assert figure(text, 'urisk_breaker_state{urisk_breaker_state="closed"}') == 1
    assert figure(text, "urisk_in_flight") == 1
    assert served.end()[0] == 0


@pytest.fixture
def figure_shown(request):
    """The shared `figure` fixture under a name that does not hide the helper above."""
    return request.getfixturevalue("figure")


# Programs of the user's own -----------------------------------------------------------------------

APP = """
    from contextlib import asynccontextmanager
    from fastapi import FastAPI
    from urisk_nb import LLMManager

    @asynccontextmanager
    async def lifespan(app):
        await LLMManager.initialize()
        yield
        await LLMManager.get_instance().shutdown()

    app = FastAPI(lifespan=lifespan)

    @app.get("/ask")
    async def ask(prompt: str):
        answer = await LLMManager.get_instance().generate(prompt=prompt, system_prompt="Be brief.")
        return {"answer": answer}
"""
SCRIPT = """
    import asyncio
    from urisk_nb import LLMManager

    async def main():
        m = await LLMManager.initialize()
        print(await m.generate(prompt="hello", system_prompt="Be brief."), m.pid)
        await m.shutdown()

    asyncio.run(main())
"""


@pytest.mark.slow
def test_an_app_of_the_users_own(tmp_path):
    """
    A FastAPI app whose lifespan starts and ends the session: it answers, and its end takes the
    server along.
    """
    lab = Laboratory(tmp_path, None)
    (tmp_path / "mine.py").write_text(textwrap.dedent(APP))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(tmp_path),
        "--port",
        str(port),
        "--log-level",
        "warning",
        "mine:app",
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, **lab.env, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )

    def answer():
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(
                f"http://127.0.0.1:{port}/ask",
                params={"prompt": "hello"},
                trust_env=False,
                timeout=20,
            )
        return None

    reply = eventually(answer, 20, "the app's answer")
    assert "SCRIPTED" in reply.json()["answer"]
    pids = lab.processes()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=15)
    assert said == ""
    gone(pids, 2)


@pytest.mark.slow
def test_a_script_of_the_users_own(tmp_path):
    """A script that starts, asks and shuts down: the answer, status 0, nothing left."""
    lab = Laboratory(tmp_path, None)
    env = {**os.environ, **lab.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        env=env,
        timeout=40,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "SCRIPTED" in done.stdout
    eventually(lambda: not alive(int(done.stdout.split()[-1])), 2, "the server's end")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_description_is_true(service, tmp_path):
    """
    Requests made from the OpenAPI description, good and bad: no mistake of ours, no status or body
    that is not described.
    """
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    # What a schema cannot say (a ticker's spelling, dates in order) is refused with 422, too.
    words = [
        "run",
        f"{service.url}/openapi.json",
        "--max-examples",
        "25",
        "--exclude-checks",
        "positive_data_acceptance",
        "--seed",
        "1",
    ]
    command = [
        sys.executable,
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=190)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
