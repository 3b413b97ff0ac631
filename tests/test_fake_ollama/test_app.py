"""
The face on real sockets: streams, queues, loads, clients that leave, and what else a server meets.
"""

import asyncio
import contextlib
import json
import threading

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running, serve

LIMIT_S = 10


@pytest.fixture(scope="module")
def server():
    scenario = Scenario(
        models=(
            "llama3.1",
            "me/Foo:tag",
            {"name": "stub", "remote_host": "https://elsewhere.example"},
        )
    )
    with running(ScriptedBackend(scenario)) as started:
        yield started


def chat_body(text="hi", **rest):
    return {"model": "llama3.1", "messages": [{"role": "user", "content": text}], **rest}


def head(body, path="/api/chat"):
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )


OPENED = []


async def opened(server, data):
    """A connection that stays open until the test's end, unless the test closes it."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    OPENED.append(writer)
    writer.write(data)
    return reader, writer


async def whole_reply(reader):
    """Head and JSON body of one reply with a Content-Length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    length = next(int(line.split(": ")[1]) for line in lines if line.startswith("Content-Length"))
    return lines[0], json.loads(await reader.readexactly(length))


async def get(server, path):
    reader, writer = await opened(
        server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    data = await reader.read()
    writer.close()
    return json.loads(data.partition(b"\r\n\r\n")[2])


async def closing(coroutine):
    try:
        await asyncio.wait_for(coroutine, LIMIT_S)
    finally:
        for writer in OPENED:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        OPENED.clear()


def run(coroutine):
    asyncio.run(closing(coroutine))


# ---- clients that leave --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_generation(gate_backend, stream):
    """Closing the connection closes the backend's iterator, frees the slot, and is counted."""

    async def main():
        backend = gate_backend()
        async with serve(backend) as server:
            reader, writer = await opened(server, head(chat_body("first", stream=stream)))
            await backend.began.get()
            if stream:
                await reader.readuntil(b"\n{")
            writer.close()
            assert await backend.closed.get() == "first"
            backend.gate.set()
            reader, writer = await opened(server, head(chat_body("second", stream=False)))
            assert (await whole_reply(reader))[1]["message"]["content"] == "second"
            writer.close()
            assert server.counters["aborted"] == 1
            assert server.counters["in_flight"] == 0

    run(main())


def test_a_client_that_leaves_the_queue_frees_its_place(gate_backend):
    """Who gives up waiting is never asked for; the next in line is."""

    async def main():
        backend = gate_backend()
        async with serve(backend) as server:
            connections = []
            for text in ("a", "b", "c"):
                connections.append(await opened(server, head(chat_body(text, stream=False))))
                await until_busy(server, len(connections))
            connections[1][1].close()
            await until(lambda: server.counters["waiting"] == 1)
            backend.gate.set()
            await whole_reply(connections[2][0])
            assert [backend.began.get_nowait() for _ in range(backend.began.qsize())] == ["a", "c"]

    run(main())


def waiting_and_running(server):
    return server.counters["waiting"] + server.counters["in_flight"]


async def until_busy(server, count):
    await until(lambda: waiting_and_running(server) == count)


async def until(condition):
    """Let the loop turn until the condition holds; the test's time limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0.001)


def test_a_client_that_leaves_during_the_load_aborts_it(ask):
    """Nothing is resident after it, and the next request loads anew."""

    async def main():
        class Slow(ScriptedBackend):
            loading = asyncio.Event()
            go = asyncio.Event()

            async def load(self, model, num_ctx):
                self.loading.set()
                await self.go.wait()
                return await super().load(model, num_ctx)

        backend = Slow()
        async with serve(backend) as server:
            _, writer = await opened(server, head(chat_body()))
            await backend.loading.wait()
            writer.close()
            await until(lambda: server.counters["connections_open"] == 0)
            assert (await get(server, "/api/ps"))["models"] == []
            backend.go.set()
            reader, writer = await opened(server, head(chat_body(stream=False)))
            assert (await whole_reply(reader))[1]["done"] is True
            writer.close()
            assert server.counters["loads"] == 1

    run(main())


# ---- order, slots, time --------------------------------------------------------------------------


def test_requests_are_served_in_the_order_of_asking(gate_backend):
    """One slot, five requests: first come, first served; the wait is in total_duration alone."""

    async def main():
        backend = gate_backend()
        async with serve(backend) as server:
            connections = []
            for text in "abcde":
                connections.append(await opened(server, head(chat_body(text, stream=False))))
                await until_busy(server, len(connections))
            await asyncio.sleep(0.05)  # the wait that must show
            backend.gate.set()
            replies = [(await whole_reply(reader))[1] for reader, _ in connections]
            assert [backend.began.get_nowait() for _ in range(5)] == list("abcde")
            last = replies[-1]
            assert last["total_duration"] >= 50e6
            assert (
                last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"] < 50e6
            )
            assert server.counters["peak_in_flight"] == 1

    run(main())


def test_as_many_run_at_once_as_there_are_slots(gate_backend):
    """Four slots, six requests: four in flight, two wait."""

    async def main():
        backend = gate_backend(Scenario(slots=4))
        async with serve(backend) as server:
            connections = [
                await opened(server, head(chat_body(text, stream=False))) for text in "abcdef"
            ]
            await until(lambda: waiting_and_running(server) == 6)
            assert (server.counters["in_flight"], server.counters["waiting"]) == (4, 2)
            backend.gate.set()
            for reader, _ in connections:
                await whole_reply(reader)
            assert server.counters["peak_in_flight"] == 4

    run(main())


def test_nothing_is_sent_before_the_first_object(gate_backend):
    """Not even the status line: a load, a queue and a long prompt all happen before it."""

    async def main():
        backend = gate_backend()
        backend.before.clear()
        async with serve(backend) as server:
            reader, writer = await opened(server, head(chat_body()))
            await backend.began.get()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)
            backend.before.set()
            assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
            writer.close()

    run(main())


# ---- loads ---------------------------------------------------------------------------------------


def test_another_context_window_loads_again():
    """
    A changed num_ctx, and one left out after one was given, cost a load; the same one costs none.
    """

    async def main():
        async with serve(ScriptedBackend(Scenario(load_ms=30))) as server:
            durations = []
            for num_ctx in (4096, 4096, 2048, None):
                options = {"num_ctx": num_ctx} if num_ctx else {}
                reader, writer = await opened(
                    server, head(chat_body(stream=False, options=options))
                )
                durations.append((await whole_reply(reader))[1]["load_duration"])
                writer.close()
            assert [duration >= 30e6 for duration in durations] == [True, False, True, True]
            assert server.counters["loads"] == 3

    run(main())


def test_a_reload_waits_for_those_who_use_the_old_window(gate_backend):
    """The model is not pulled away from under an answer."""

    async def main():
        backend = gate_backend()
        async with serve(backend) as server:
            first, _ = await opened(server, head(chat_body("a", stream=False)))
            await backend.began.get()
            second, _ = await opened(
                server, head(chat_body("b", stream=False, options={"num_ctx": 2048}))
            )
            third, _ = await opened(server, head(chat_body("c", stream=False)))
            await until(lambda: server.counters["requests"] == 3)
            assert backend.began.empty()
            backend.gate.set()
            for reader in (first, second, third):
                await whole_reply(reader)
            assert server.counters["loads"] == 3

    run(main())


def test_too_many_waiting_for_a_load_are_refused():
    """503, with Ollama's text, only while a load is waited for."""

    async def main():
        loading, go = asyncio.Event(), asyncio.Event()

        class Slow(ScriptedBackend):
            async def load(self, model, num_ctx):
                loading.set()
                await go.wait()
                return 1

        async with serve(Slow(), queue=1) as server:
            first, _ = await opened(server, head(chat_body(stream=False)))
            await loading.wait()
            second, _ = await opened(server, head(chat_body(stream=False)))
            status, body = await whole_reply(second)
            assert status == "HTTP/1.1 503 Service Unavailable"
            assert body == {
                "error": "server busy, please try again.  maximum pending requests exceeded"
            }
            go.set()
            assert (await whole_reply(first))[0] == "HTTP/1.1 200 OK"
            third, _ = await opened(server, head(chat_body(stream=False)))
            assert (await whole_reply(third))[0] == "HTTP/1.1 200 OK"

    run(main())


def test_a_failed_load_is_a_500_and_keeps_nothing(ask):
    """The backend's own text reaches the client before any stream begins."""
    with running(
        ScriptedBackend(
            Scenario(load_error="llama-server process has terminated: exit status 1: no")
        )
    ) as server:
        got = ask(server.url, "POST", "/api/chat", chat_body())
        assert (got.status, got.json) == (
            500,
            {"error": "llama-server process has terminated: exit status 1: no"},
        )
        assert ask(server.url, "GET", "/api/ps").json == {"models": []}


def test_keep_alive_is_remembered_and_zero_unloads(server, ask):
    """A given keep_alive stays in force for requests without one; 0 lets the model go when idle."""
    long = ask(server.url, "POST", "/api/chat", chat_body(keep_alive="2h"))
    assert long.status == 200
    ask(server.url, "POST", "/api/chat", chat_body())
    expires = ask(server.url, "GET", "/api/ps").json["models"][0]["expires_at"]
    ask(server.url, "POST", "/api/chat", chat_body(keep_alive="1h"))
    assert ask(server.url, "GET", "/api/ps").json["models"][0]["expires_at"] < expires
    ask(server.url, "POST", "/api/chat", chat_body(keep_alive=0))
    assert eventually_empty(server, ask)


def eventually_empty(server, ask):
    pause = threading.Event()
    return any(
        ask(server.url, "GET", "/api/ps").json["models"] == [] or pause.wait(0.01)
        for _ in range(200)
    )


def test_a_short_keep_alive_ends_by_itself(ask):
    """The timer starts with the end of the last request."""
    with running(ScriptedBackend()) as server:
        ask(server.url, "POST", "/api/chat", chat_body(keep_alive="20ms"))
        assert eventually_empty(server, ask)


# ---- names, section 2 ----------------------------------------------------------------------------

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


# ---- requests that are refused -------------------------------------------------------------------

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


# ---- pull, delete --------------------------------------------------------------------------------


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
