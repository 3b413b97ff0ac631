"""The app on real sockets: streams, queues, loads, names, and requests that are refused."""

import asyncio
import threading

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running, serve
from raw_http import (
    chat_body,
    get,
    head,
    opened,
    run,
    until,
    until_busy,
    waiting_and_running,
    whole_reply,
)

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
