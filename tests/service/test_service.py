"""
The service over HTTP: a real uvicorn, the fake Ollama behind it, and callers that leave, flood and
lie.
"""

import json
import socket
import subprocess
import sys
import time

import pytest

from harness import eventually

pytest.importorskip("fastapi", reason="the extra `service` is not installed")
pytest.importorskip("uvicorn", reason="the extra `service` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `service` is not installed")

from served_app import EVIDENCE, KINDS, PRICES, chats, lines_of, metric_value
from urisk_nb import LLMManager, assess
from urisk_nb.service import status_of

# Errors -------------------------------------------------------------------------------------------

# Of whoever runs the service
MISTAKES = {"UriskError", "SettingsError", "PackageMissing", "WrongThread", "ForkedError"}
MISTAKES |= {"JournalUnusable", "RecordChanged", "RulesChanged"}
EXPECTED = {
    **dict.fromkeys(MISTAKES, 500),
    **dict.fromkeys(
        ("InputError", "BadRequest", "ModelNameInvalid", "ModelUnsuitable", "ContextExceeded"), 422
    ),
    **dict.fromkeys(
        (
            "ServerError",
            *("ClusterLost", "WorkerLost", "WorkersDiffer"),
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
            "AccessDenied",
            "TlsFailed",
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
            "AnswerInvalid",
            "PullFailed",
        ),
        502,
    ),
    **dict.fromkeys(("ModelError", "ModelsDiffer", "FetchFailed"), 502),
    **dict.fromkeys(("ServerTimeout", "ServerHung"), 504),
    **dict.fromkeys(("OutOfMemory", "ModelTooLarge", "DiskFull"), 507),
    "NotSupportedByServer": 501,
    **dict.fromkeys(("ModelNotFound", "RunNotFound"), 404),
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
    assert (answer["engine"], answer["done_reason"]) == ("ollama", "length")
    assert answer["model"].startswith("llama3.1")
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
    assert last["engine"] == "ollama"


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
    before = service.metric(name)
    with service.http.stream("POST", "/chat", json={"prompt": prompt, "stream": True}) as reply:
        *pieces, last = lines_of(reply)
    assert "".join(line["piece"] for line in pieces) == "so far "
    assert set(last) == {"error", "message", "fix"}
    assert last["error"] == error
    assert service.metric(name) == before + 1


def leave(service, fake_ollama, path, body, after_line):
    """Ask, read one line or nothing, and close the connection while the server is at it."""
    with socket.create_connection(("127.0.0.1", service.listener.getsockname()[1]), 10) as wire:
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
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
    eventually(lambda: service.metric("urisk_in_flight") == 1, 5, "the end of the request")
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
    """4xx with name, message and fix; never an internal error."""
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
    assert last["run"]["params"]["alpha"] == [0.05, 0.01]
    assert last["run"]["served_by"]["engine"] == "ollama"


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
        ({"tickers": ["AAA"], "evidence": EVIDENCE, "params": {"families": "a.toml"}}, "families"),
        ({"tickers": ["AAA"], "evidence": EVIDENCE, "params": {"model": "huge:405b"}}, "huge:405b"),
        (
            {"tickers": ["AAA"], "evidence": EVIDENCE, "params": {"judge": "urisk-judge,big:70b"}},
            "big:70b",
        ),
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
    assert ollama == {"status": "ready", "state": "external", "version": "0.33.0"}
    llm = service.http.get("/health/llm").json()
    assert (llm.pop("status"), llm.pop("engine")) == ("ready", "ollama")
    assert llm.pop("model").startswith("llama3.1")
    assert llm == {}
    assert chats(fake_ollama) == before


def test_figures(service):
    """
    Calls by route and status, errors by kind, latencies, what is in flight, restarts and the
    breaker.
    """
    name = 'urisk_calls_total{route="/chat",status="200"}'
    before = service.metric(name)
    service.ask("hello")
    service.http.get("/nowhere")
    text = service.http.get("/metrics").text
    assert metric_value(text, name) == before + 1
    assert metric_value(text, 'urisk_call_seconds_count{route="/chat"}') >= 1
    assert metric_value(text, 'urisk_calls_total{route="other",status="404"}') >= 1
    assert metric_value(text, "urisk_first_token_seconds_count") >= 1
    assert metric_value(text, "urisk_in_flight") == 1
    assert "urisk_server_restarts 0.0" in text
    assert metric_value(text, 'urisk_breaker_state{urisk_breaker_state="closed"}') == 1


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


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_description_is_true(service, tmp_path):
    """
    Requests made from the OpenAPI description, good and bad: no internal error, no status or body
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
