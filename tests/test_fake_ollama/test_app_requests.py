"""What the scripted server takes, refuses and answers, request by request."""

import asyncio
import contextlib
import json

import pytest

from app_driver import chat_body, get, head, opened, run, until, waiting_and_running, whole_reply
from fake_ollama import Rule, Scenario, ScriptedBackend, running, serve

# names, section 2 ---------------------------------------------------------------------------------


EMPTY, BAD, ABSENT = "", "foo bar", "foo"

NAMES = [
    ("/api/generate", EMPTY, 404, "model '' not found"),
    ("/api/generate", BAD, 400, "invalid model name"),
    ("/api/generate", ABSENT, 404, "model 'foo' not found"),
    ("/api/chat", EMPTY, 400, "model is required"),
    ("/api/chat", BAD, 400, "invalid model name"),
    ("/api/chat", ABSENT, 404, "model 'foo' not found"),
    ("/api/embed", EMPTY, 404, "model '' not found"),
    ("/api/embed", BAD, 400, "invalid model name"),
    ("/api/embed", ABSENT, 404, 'model "foo" not found, try pulling it first'),
    ("/api/show", EMPTY, 400, "model is required"),
    ("/api/show", BAD, 400, "invalid model name"),
    ("/api/show", ABSENT, 404, "model 'foo:latest' not found"),
    ("/api/pull", EMPTY, 400, "invalid model name"),
    ("/api/pull", BAD, 400, "invalid model name"),
    ("/api/delete", EMPTY, 400, "model is required"),
    ("/api/delete", BAD, 400, 'name "foo bar" is invalid'),
    ("/api/delete", ABSENT, 404, "model 'foo' not found"),
    ("/api/chat", "x:120b-cloud", 403, "ollama cloud is disabled: remote model is unavailable"),
    ("/api/chat", "x:cloud", 403, "ollama cloud is disabled: remote model is unavailable"),
    ("/api/show", "x:cloud", 403, "ollama cloud is disabled: remote model details are unavailable"),
    ("/api/chat", "stub", 403, "ollama cloud is disabled: remote model is unavailable"),
    ("/api/chat", "x:cloud:local", 400, 'use either :local or :cloud, not both: "x:cloud:local"'),
    ("/api/chat", "x:", 400, "invalid model name"),
    ("/api/chat", "-x", 400, "invalid model name"),
    ("/api/chat", "a.b/x", 400, "invalid model name"),
    ("/api/chat", "a/b/c/d", 400, "invalid model name"),
    ("/api/chat", "x" * 81, 400, "invalid model name"),
]


@pytest.mark.parametrize(("path", "name", "status", "text"), NAMES)
def test_name_errors_are_ollamas(server, ask, path, name, status, text):
    """Each endpoint refuses a missing, a malformed and an unknown name in its own words."""
    method = "DELETE" if path == "/api/delete" else "POST"
    got = ask(
        server.url,
        method,
        path,
        {
            "model": name,
            "prompt": "x",
            "messages": [{"role": "user", "content": "x"}],
            "input": "x",
        },
    )
    assert (got.status, got.json) == (status, {"error": text})


@pytest.mark.parametrize(
    "name",
    [
        "llama3.1",
        "LLAMA3.1:Latest",
        "library/llama3.1",
        "registry.ollama.ai/library/llama3.1",
        "llama3.1:local",
    ],
)
def test_names_match_without_case_and_defaults(server, ask, name):
    """A model is found by any spelling of its name, and the reply echoes the one that was sent."""
    got = ask(server.url, "POST", "/api/chat", {**chat_body(stream=False), "model": name})
    assert (got.status, got.json["model"]) == (200, name)


# requests that are refused ------------------------------------------------------------------------


REFUSALS = [
    (
        chat_body(tools=[{"type": "function"}]),
        400,
        "registry.ollama.ai/library/llama3.1:latest does not support tools",
    ),
    (chat_body(think="low"), 400, '"llama3.1" does not support thinking'),
    (
        chat_body(think=3),
        400,
        'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
    ),
    (chat_body(top_logprobs=-1), 400, "top_logprobs must be between 0 and 20"),
    (
        chat_body(stream="yes"),
        400,
        "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
    ),
    (
        chat_body(options=[]),
        400,
        (
            "json: cannot unmarshal array into Go struct field ChatRequest.options of type "
            "map[string]interface {}"
        ),
    ),
    (chat_body(keep_alive={}), 400, "Unsupported type: 'map[string]interface {}'"),
    (chat_body(keep_alive="5x"), 400, 'time: unknown unit "x" in duration "5x"'),
    (
        chat_body(options={"temperature": "hot"}),
        500,
        'option "temperature" must be of type float32',
    ),
    (chat_body(options={"stop": "."}), 500, 'option "stop" must be of type array'),
    (chat_body(options={"stop": [1]}), 500, 'option "stop" must be of an array of strings'),
    (
        chat_body(format=3),
        500,
        'invalid format: "3"; expected "json" or a valid JSON Schema object',
    ),
    ([], 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
    (
        {"model": "llama3.1", "messages": ["x"]},
        400,
        "json: cannot unmarshal string into Go value of type api.ChatRequest.messages",
    ),
]


@pytest.mark.parametrize(("body", "status", "text"), REFUSALS)
def test_refusals_carry_ollamas_texts(server, ask, body, status, text):
    """What cannot be asked is refused before anything is generated."""
    got = ask(server.url, "POST", "/api/chat", body)
    assert (got.status, got.json) == (status, {"error": text})


def test_raw_generate_takes_no_system(server, ask):
    """raw excludes template, system and context."""
    got = ask(
        server.url,
        "POST",
        "/api/generate",
        {"model": "llama3.1", "prompt": "x", "raw": True, "system": "y"},
    )
    assert (got.status, got.json["error"]) == (
        400,
        "raw mode does not support template, system, or context",
    )


def test_null_fields_count_as_absent(server, ask):
    """JSON null is no wrong type."""
    got = ask(
        server.url,
        "POST",
        "/api/chat",
        chat_body(stream=False, format=None, options=None, keep_alive=None, think=None),
    )
    assert got.status == 200


def test_half_surrogates_in_a_request_do_not_break_the_reply(ask):
    """A lone half of a pair becomes U+FFFD, as Go reads it, and the reply is valid UTF-8."""

    class Echo(ScriptedBackend):
        async def answer(self, ask):
            from fake_ollama import Chunk, Final

            yield Chunk(text=ask.last)
            yield Final(reason="stop", prompt_new=1)

    with running(Echo()) as server:
        got = ask(
            server.url,
            "POST",
            "/api/chat",
            '{"model":"llama3.1","stream":false,"messages":[{"role":"user","content":"\\ud83d!\\ud83d\\ude00"}]}',
        )
        assert got.json["message"]["content"] == "\ufffd!\U0001f600"


def test_html_signs_are_escaped_as_go_does(ask):
    """`<`, `>` and `&` leave as \\u003c, \\u003e, \\u0026."""
    with running(ScriptedBackend(Scenario(rules=(Rule(answer=["<b>&"]),)))) as server:
        body = ask(server.url, "POST", "/api/chat", chat_body(stream=False)).body
        assert b'"content":"\\u003cb\\u003e\\u0026"' in body


# pull, delete -------------------------------------------------------------------------------------


def test_a_pull_makes_a_model_usable_and_a_delete_takes_it_away(ask):
    """Not installed: 404. Pulled: listed and answering. Deleted: 404 again."""
    with running(
        ScriptedBackend(Scenario(models=({"name": "tiny", "installed": False},)))
    ) as server:
        chat = {**chat_body(stream=False), "model": "tiny"}
        assert ask(server.url, "POST", "/api/chat", chat).status == 404
        lines = ask(server.url, "POST", "/api/pull", {"model": "tiny"}).lines
        assert lines[0] == {"status": "pulling manifest"}
        assert lines[-1] == {"status": "success"}
        assert ask(server.url, "POST", "/api/chat", chat).status == 200
        assert [model["name"] for model in ask(server.url, "GET", "/api/tags").json["models"]] == [
            "tiny:latest"
        ]
        gone = ask(server.url, "DELETE", "/api/delete", {"model": "tiny"})
        assert (gone.status, gone.body) == (200, b"")
        assert ask(server.url, "GET", "/api/tags").json == {"models": []}
        assert ask(server.url, "POST", "/api/pull", {"name": "tiny", "stream": False}).json == {
            "status": "success"
        }


def test_a_scripted_pull_is_sent_as_written(ask):
    """Progress that goes down, layers without a count, an error with status 200."""
    lines = [
        {"status": "pulling x"},
        {"status": "pulling x", "total": 9, "completed": 5},
        {"error": "max retries exceeded: EOF"},
    ]
    with running(ScriptedBackend(Scenario(pulls={"big:latest": lines}))) as server:
        got = ask(server.url, "POST", "/api/pull", {"model": "big"})
        assert (got.status, got.lines) == (200, lines)


# the wire -----------------------------------------------------------------------------------------


def test_one_connection_carries_many_requests(server):
    """Keep-alive, and requests that were sent ahead are answered in order."""

    async def main():
        before = server.counters["connections_total"]
        one = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader, writer = await opened(server, one + head(chat_body(stream=False)) + one)
        assert "version" in (await whole_reply(reader))[1]
        assert (await whole_reply(reader))[1]["done"] is True
        assert "version" in (await whole_reply(reader))[1]
        writer.close()
        assert server.counters["connections_total"] == before + 1

    run(main())


def test_an_old_client_gets_no_chunks(server):
    """HTTP/1.0: a stream ends with the connection."""

    async def main():
        data = head(chat_body()).replace(b"HTTP/1.1", b"HTTP/1.0")
        reader, _ = await opened(server, data)
        top, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in top
        assert [json.loads(line) for line in body.splitlines()][-1]["done"] is True

    run(main())


def test_a_chunked_request_and_100_continue(server):
    """Both ways in which clients send bodies of unknown or large size."""

    async def main():
        data = json.dumps(chat_body(stream=False)).encode()
        top = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        reader, writer = await opened(server, top)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(
            b"5;x=y\r\n"
            + data[:5]
            + b"\r\n%x\r\n" % len(data[5:])
            + data[5:]
            + b"\r\n0\r\nTrailer: t\r\n\r\n"
        )
        assert (await whole_reply(reader))[1]["done"] is True
        writer.close()

    run(main())


GARBAGE = [
    (b"hello\r\n\r\n", b"400"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    (b"GET / HTTP/2.0\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", b"400"),
    (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
    (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 67108865\r\n\r\n", b"413"),
    (
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        + b"9" * 5000
        + b"\r\n\r\n",
        b"413",
    ),
    (
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n",
        b"413",
    ),
    (
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"400",
    ),
    (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
    (b"GET /" + b"x" * 70_000, b"431"),
]


@pytest.mark.parametrize(("data", "status"), GARBAGE)
def test_garbage_is_refused_and_the_connection_ends(server, data, status):
    """No input makes it hang or raise."""

    async def main():
        reader, _ = await opened(server, data)
        with contextlib.suppress(ConnectionResetError):  # it may close while we still send
            assert (await reader.readline()).split()[1] == status
            await reader.read()

    run(main())


@pytest.mark.parametrize(
    "data", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: l", head(chat_body())[:-3]]
)
def test_half_a_request_harms_nobody(server, data):
    """A client that sends a part and leaves, or stays silent, costs nothing."""

    async def main():
        _, silent = await opened(server, data)
        _, gone = await opened(server, data)
        gone.close()
        assert "version" in await get(server, "/api/version")
        silent.close()

    run(main())


def test_a_client_that_does_not_read_blocks_only_itself(ask):
    """
    Two slots: one client never reads its 8 MB, the other is served; a line of that size arrives
    whole.
    """

    async def main():
        big = "x" * 8_000_000
        scenario = Scenario(slots=2, rules=(Rule(contains="big", answer=[big]),))
        async with serve(ScriptedBackend(scenario)) as server:
            _, stuck = await opened(server, head(chat_body("big")))
            await until(lambda: server.counters["in_flight"] == 1)
            got = await asyncio.to_thread(ask, server.url, "POST", "/api/chat", chat_body("big"))
            assert got.lines[0]["message"]["content"] == big
            stuck.transport.abort()
            await until(lambda: server.counters["in_flight"] == 0)
            assert server.counters["aborted"] == 1

    run(main())


def test_the_end_of_the_server_waits_for_no_client():
    """Clients that never read, never finish a request or just stay do not hold it up."""

    async def main():
        scenario = Scenario(rules=(Rule(answer=["x" * 8_000_000]),))
        async with serve(ScriptedBackend(scenario)) as server:
            for data in (head(chat_body("big")), head(chat_body("queued")), b"GET", b""):
                await opened(server, data)
            await until(lambda: waiting_and_running(server) == 2)

    run(main())


@pytest.mark.parametrize(
    "host",
    [
        "localhost:1",
        "127.0.0.1",
        "[::1]:80",
        "10.1.2.3",
        "x.local",
        "x.localhost",
        "a.internal",
        "",
    ],
)
def test_local_hosts_are_served(server, ask, host):
    """The check of the Host header lets everything local through."""
    assert ask(server.url, "GET", "/", Host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.com"},
        {"Host": "8.8.8.8"},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
    ],
)
def test_foreign_hosts_and_origins_are_not(server, ask, headers):
    """403, empty: a page in a browser cannot read the user's models."""
    got = ask(server.url, "GET", "/", **headers)
    assert (got.status, got.body) == (403, b"")


@pytest.mark.parametrize(
    "origin", ["http://localhost:8888", "https://127.0.0.1", "app://x", "vscode-webview://x"]
)
def test_local_origins_are_served(server, ask, origin):
    """What Ollama allows by default."""
    assert ask(server.url, "GET", "/", Origin=origin).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/", "HEAD, GET"), ("GET", "/api/chat", "POST"), ("POST", "/api/delete", "DELETE")],
)
def test_a_wrong_method_names_the_right_ones(server, ask, method, path, allow):
    """405 is plain text, with Allow."""
    got = ask(server.url, method, path)
    assert (got.status, got.body, got.headers["Allow"]) == (405, b"405 method not allowed", allow)


def test_a_fault_of_ours_is_a_500_and_the_server_lives(ask, capfd):
    """An exception in a backend reaches nobody but stderr."""

    class Broken(ScriptedBackend):
        async def answer(self, ask):
            raise ZeroDivisionError("on purpose")
            yield

    with running(Broken()) as server:
        assert ask(server.url, "POST", "/api/chat", chat_body()).status == 500
        assert ask(server.url, "GET", "/").status == 200
    assert "on purpose" in capfd.readouterr().err


def test_counters_tell_what_happened(ask):
    """Requests by path, and for each answer what was new in its prompt."""
    with running(ScriptedBackend()) as server:
        for _ in range(2):
            ask(server.url, "POST", "/api/chat", chat_body("one two three"))
        got = ask(server.url, "GET", "/urisk/counters").json
        assert got["requests"] == 2
        assert got["paths"] == {"/api/chat": 2}
        first, second = got["recent"]
        assert first["prompt_cached"] == 0
        assert second["prompt_new"] == 1
        assert first["prompt_new"] == second["prompt_new"] + second["prompt_cached"]
        assert got == {
            **server.counters,
            "connections_open": got["connections_open"],
            "connections_total": got["connections_total"],
        }
