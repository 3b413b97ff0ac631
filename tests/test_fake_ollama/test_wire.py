"""The wire: keep-alive, chunks, garbage, hosts and origins, slow clients."""

import asyncio
import contextlib
import json

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running, serve
from raw_http import (
    chat_body,
    get,
    head,
    opened,
    run,
    until,
    waiting_and_running,
    whole_reply,
)

# ---- the wire ------------------------------------------------------------------------------------


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
        top = (
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        )
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
        (
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n"
        ),
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
