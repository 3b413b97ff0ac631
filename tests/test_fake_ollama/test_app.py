"""
The face on real sockets: streams, queues, loads, clients that leave, and what else a server meets.
"""

import asyncio
import threading

import pytest

from app_driver import chat_body, get, head, opened, run, until, waiting_and_running, whole_reply
from fake_ollama import Scenario, ScriptedBackend, running, serve

# clients that leave -------------------------------------------------------------------------------


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


async def until_busy(server, count):
    await until(lambda: waiting_and_running(server) == count)


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


# order, slots, time -------------------------------------------------------------------------------


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


# loads --------------------------------------------------------------------------------------------


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
