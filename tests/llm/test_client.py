"""
The client on real sockets: what is sent and closed, how silence is timed, and what every foreign
failure becomes.
"""

import asyncio
import contextlib
import socket
import time

import httpx
import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, serve
from harness import free_port
from urisk_nb import errors
from urisk_nb.llm.client import HTTPX_ERRORS, Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.messages import ChatRequest, Final, Model
from urisk_nb.settings import Settings

LIMIT_S = 20
WORDS = "Ärger mit 株価 – drei Wörter mehr"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT_S))


@contextlib.asynccontextmanager
async def connected(url, transport=None, **flags):
    client = Client(Settings(url=url, **flags), transport)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def scripted(*rules, settings=None, **scenario):
    """A stand-in on this loop, and a client of it."""
    async with (
        serve(ScriptedBackend(Scenario(rules=rules, **scenario))) as server,
        connected(server.url, **(settings or {})) as client,
    ):
        yield server, client


@contextlib.asynccontextmanager
async def raw_server(reply, *, hold=False, reset=False):
    """
    A server that answers every connection with these bytes; `hold` keeps it open, `reset` cuts it
    off.
    """
    done = asyncio.Event()
    tasks = set()

    async def answer(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()
            if hold:
                await done.wait()
        if reset:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
            )
            writer.transport.abort()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        done.set()
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def body(text="hi", model="llama3.1", **rest):
    messages = [{"role": "user", "content": text}]
    fields = {"model": model, "keep_alive": "20m", "num_ctx": 4096}
    return ollama.encode_chat(ChatRequest(messages=messages, **fields, **rest))


async def said(client, text="hi", **rest):
    """Everything that a chat gives."""
    chunks = []
    final = await client.chat(body(text, **rest), chunks.append)
    assert chunks[-1] is final
    return chunks


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7])
def test_an_answer_comes_in_pieces_and_ends_with_its_counters(size):
    """
    However the bytes are cut on the way, the text is whole and the last record is the only Final.
    """

    async def main():
        async with scripted(Rule(answer=WORDS, split_bytes=size)) as (server, client):
            *pieces, final = await said(client)
            assert "".join(piece.text for piece in pieces) + final.text == WORDS
            assert len(pieces) > 3
            assert not any(isinstance(piece, Final) for piece in pieces)
            noted = server.counters["recent"][0]
            assert (final.done_reason, final.tokens) == ("stop", noted["answered"])
            assert final.prompt_tokens == noted["prompt_new"] + noted["prompt_cached"]
            assert final.total_ns >= final.load_ns + final.prompt_ns + final.generation_ns

    run(main())


@pytest.mark.slow
def test_two_hundred_calls_share_a_connection():
    """
    The session is kept: calls one after the other, of which each is read to its end, never dial
    again.
    """

    async def main():
        async with scripted(Rule(answer=["ok"])) as (server, client):
            for _ in range(200):
                await said(client)
            assert server.counters["paths"]["/api/chat"] == 200
            assert server.counters["connections_total"] <= 2

    run(main())


def test_refusals_and_loads_keep_the_connection_too():
    """An error is no reason to dial again."""

    async def main():
        async with scripted(Rule(contains="bad", status=400, error="no")) as (server, client):
            for _ in range(10):
                with pytest.raises(errors.BadRequest):
                    await said(client, "bad")
                await client.load(
                    ollama.encode_load(model="llama3.1", keep_alive="1m", num_ctx=4096)
                )
            assert server.counters["connections_total"] <= 2

    run(main())


@pytest.mark.row(45)
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_of_the_environment_is_not_used(scheme, monkeypatch):
    """
    Evidence goes to the server and nowhere else; a scheme for which httpx has no support installed
    is no harm either.
    """
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:9")

    async def main():
        async with scripted() as (_, client):
            assert await client.probe() == "0.33.0"
            assert len(await said(client)) > 1

    run(main())


# Leaving ------------------------------------------------------------------------------------------


def test_leaving_in_the_middle_stops_the_generation():
    """
    Who leaves after two chunks leaves the server idle, and the next call is answered.
    """

    async def main():
        slow = Rule(contains="slow", answer="word " * 1000, token_ms=5)
        async with scripted(slow) as (server, client):
            chunks = []
            call = asyncio.create_task(client.chat(body("slow"), chunks.append))
            await until(lambda: len(chunks) >= 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: server.counters["in_flight"] == 0)
            assert server.counters["aborted"] == 1
            assert (await said(client, "next"))[-1].done_reason == "stop"

    run(main())


@pytest.mark.parametrize(
    "rule",
    [Rule(first_ms=60_000), Rule(answer="a b c", token_ms=60_000)],
    ids=["before", "between"],
)
def test_a_cancelled_call_stops_the_generation(rule):
    """A cancel reaches the server before the first piece and between two."""

    async def main():
        async with scripted(rule) as (server, client):
            call = asyncio.create_task(said(client))
            await until(lambda: server.counters["in_flight"] == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: server.counters["aborted"] == 1)
            assert server.counters["in_flight"] == 0

    run(main())


# Silence ------------------------------------------------------------------------------------------


def test_silence_before_the_first_token_has_its_own_limit():
    """
    Queue, load and prompt may take long: that limit is URISK_LOAD_TIMEOUT, and the fix says so.
    """

    async def main():
        settings = {"load_timeout_s": 0.2, "timeout_s": 60}
        async with scripted(Rule(first_ms=60_000), settings=settings) as (server, client):
            with pytest.raises(errors.ServerTimeout, match=r"0\.2 s for the first token") as caught:
                await said(client)
            assert "URISK_LOAD_TIMEOUT=0.8" in caught.value.fix
            assert isinstance(caught.value.__cause__, TimeoutError)
            await until(lambda: server.counters["aborted"] == 1)

    run(main())


def test_silence_between_two_tokens_keeps_what_was_said():
    """
    A model that stops talking is given up after OLLAMA_TIMEOUT; the words that came are on the
    error.
    """

    async def main():
        settings = {"load_timeout_s": 60, "timeout_s": 0.2}
        async with scripted(Rule(answer=["one", "two"], token_ms=60_000), settings=settings) as (
            server,
            client,
        ):
            with pytest.raises(errors.StreamInterrupted) as caught:
                await said(client)
            assert caught.value.partial == "one"
            assert isinstance(caught.value.__cause__, errors.ServerTimeout)
            assert "OLLAMA_TIMEOUT" in caught.value.__cause__.fix
            await until(lambda: server.counters["aborted"] == 1)

    run(main())


def test_a_slow_first_token_is_not_silence_between_two():
    """A load that takes longer than OLLAMA_TIMEOUT is fine."""

    async def main():
        async with scripted(Rule(first_ms=400), settings={"timeout_s": 0.1}) as (_, client):
            assert (await said(client))[-1].done_reason == "stop"

    run(main())


def test_a_refusal_that_never_ends_is_given_up():
    """
    A status without the rest of its body does not hold the caller for ever, and what came of it
    counts.
    """

    async def main():
        head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\nout of memory"
        async with (
            raw_server(head, hold=True) as url,
            connected(url, timeout_s=0.2, load_timeout_s=0.2) as client,
        ):
            with pytest.raises(errors.OutOfMemory):
                await asyncio.wait_for(said(client), 1)

    run(main())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"3", 3.0), (b"Wed, 21 Oct 2026 07:28:00 GMT", None), (b"-1", None), (None, None)],
)
def test_when_to_come_back_is_read(header, seconds):
    """A number of seconds; a date is passed over."""

    async def main():
        line = b"Retry-After: " + header + b"\r\n" if header else b""
        head = b"HTTP/1.1 503 Service Unavailable\r\n" + line + b"Content-Length: 4\r\n\r\nfull"
        async with raw_server(head) as url, connected(url) as client:
            with pytest.raises(errors.ServerBusy) as caught:
                await said(client)
            assert caught.value.facts["retry_after_s"] == seconds

    run(main())


# Broken ends --------------------------------------------------------------------------------------


def test_a_clean_end_without_the_last_object_is_no_answer():
    """
    Ollama ends some streams in order and unfinished; that is told apart, with the text so far.
    """

    async def main():
        async with scripted(Rule(answer="one two", ends="cut")) as (_, client):
            with pytest.raises(errors.AnswerIncomplete) as caught:
                await said(client)
            assert caught.value.partial == "one two"

    run(main())


def test_a_connection_that_breaks_after_a_token_keeps_the_text():
    """The partial answer is on the error, and what httpx said stays in the chain of causes."""

    async def main():
        async with scripted(Rule(answer="one two", ends="reset")) as (_, client):
            with pytest.raises(errors.StreamInterrupted) as caught:
                await said(client)
            assert caught.value.partial == "one two"
            assert isinstance(caught.value.__cause__.__cause__, httpx.HTTPError)

    run(main())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_breaks_before_the_first_token_is_lost(reset):
    """Nothing was said, so asking again is safe, and the error is the one that is tried again."""

    async def main():
        async with raw_server(b"", reset=reset) as url, connected(url) as client:
            with pytest.raises(errors.ServerConnectionLost) as caught:
                await said(client)
            assert isinstance(caught.value.__cause__, httpx.HTTPError)

    run(main())


def test_nothing_listens():
    """A closed port is known at once."""

    async def main():
        async with connected(f"http://127.0.0.1:{free_port()}") as client:
            began = time.monotonic()
            for attempt in (client.probe(), client.list_models(), said(client)):
                with pytest.raises(errors.ServerNotRunning, match="nothing answers"):
                    await attempt
            assert time.monotonic() - began < 1

    run(main())


@pytest.mark.row(42)
def test_an_error_line_after_some_text_is_what_it_says():
    """Status 200 and then an error: never text, never a success."""

    async def main():
        crash = "an error was encountered while running the model: unexpected EOF"
        async with scripted(Rule(answer="one", ends="error", error=crash)) as (_, client):
            with pytest.raises(errors.RunnerCrashed):
                await said(client)

    run(main())


def test_a_line_that_is_no_json_is_a_protocol_error():
    """Garbage in a stream is not taken for text."""

    async def main():
        async with scripted(Rule(answer="one", ends="garbage")) as (_, client):
            with pytest.raises(errors.ProtocolError):
                await said(client)

    run(main())


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (
            503,
            "server busy, please try again.  maximum pending requests exceeded",
            errors.ServerBusy,
        ),
        (500, "llama-server process has terminated: exit status 1: boom", errors.RunnerCrashed),
        (500, "llama-server reported out-of-memory during startup: x", errors.OutOfMemory),
        (500, "something new", errors.ServerInternalError),
    ],
)
def test_a_refusal_before_the_first_token_is_what_it_means(status, text, error):
    """Status and words go through the table of meanings."""

    async def main():
        async with scripted(Rule(status=status, error=text)) as (_, client):
            with pytest.raises(error, match=str(status)) as caught:
                await said(client)
            assert caught.value.facts["said"] == text

    run(main())


def test_a_prompt_that_is_too_long_is_refused_not_cut():
    """
    `truncate: false` is sent, so that evidence is never lost silently in the middle, on both paths
    of the server.
    """

    async def main():
        models = ({"name": "llama3.1", "native": False}, "native")
        async with scripted(models=models) as (_, client):
            for model in ("llama3.1", "native"):
                with pytest.raises(errors.ContextExceeded, match="4096"):
                    await said(client, "word " * 6000, model=model)

    run(main())


# Foreign exceptions -------------------------------------------------------------------------------


def foreign():
    """Every exception class of httpx that can be raised: those that have no subclasses."""
    kinds = [
        value
        for value in vars(httpx).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    return [
        kind
        for kind in kinds
        if not any(other is not kind and issubclass(other, kind) for other in kinds)
    ]


def made(kind):
    request = httpx.Request("GET", "http://127.0.0.1")
    for arguments, named in (
        (("boom",), {"request": request, "response": httpx.Response(500)}),
        (("boom",), {"request": request}),
        (("boom",), {}),
        ((), {}),
    ):
        with contextlib.suppress(TypeError):
            return kind(*arguments, **named)
    raise AssertionError(f"{kind} cannot be made")


def test_httpx_has_the_exceptions_we_know():
    """The list that the next tests run over is not empty by mistake."""
    assert {
        httpx.ConnectError,
        httpx.ReadTimeout,
        httpx.RemoteProtocolError,
        httpx.InvalidURL,
        httpx.StreamClosed,
    } <= set(foreign())


@pytest.mark.parametrize("kind", foreign(), ids=lambda kind: kind.__name__)
def test_every_exception_of_httpx_has_a_meaning(kind):
    """
    No class is left to the default of the table, and each becomes one of ours with its cause, in a
    chat and in a small request.
    """
    meaning = next((HTTPX_ERRORS[base] for base in kind.__mro__ if base in HTTPX_ERRORS), None)
    assert meaning is not None, f"httpx.{kind.__name__} has no entry in HTTPX_ERRORS"

    async def fail(request):
        raise made(kind)

    async def main():
        async with connected("http://127.0.0.1:1", httpx.MockTransport(fail)) as client:
            for attempt in (said(client), client.list_models()):
                with pytest.raises(meaning) as caught:
                    await attempt
                assert type(caught.value.__cause__) is kind
                assert caught.value.fix

    run(main())


# Small requests -----------------------------------------------------------------------------------


def reply(text, status="200 OK", kind="application/json"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}"
    return f"{head}\r\n\r\n{text}".encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 400,
        reply("404 page not found", "404 Not Found", "text/plain"),
        reply("<html>hello</html>", kind="text/html"),
        reply("[]"),
        reply('{"name":"x"}'),
        reply('{"version":3}'),
        reply('{"version":"1"}', "500 Internal Server Error"),
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
    ids=[
        "ssh",
        "garbage",
        "404",
        "html",
        "list",
        "nameless",
        "number",
        "500",
        "redirect",
        "closes",
    ],
)
def test_another_program_at_the_address_is_told_apart(answer):
    """Whatever answers and is not Ollama is PortTaken, soon, with the address in the message."""

    async def main():
        async with raw_server(answer) as url, connected(url) as client:
            began = time.monotonic()
            with pytest.raises(
                errors.PortTaken, match=r"127\.0\.0\.1:\d+ answers, but it is neither Ollama nor"
            ):
                await client.probe()
            assert time.monotonic() - began < 3

    run(main())


def test_a_program_that_resets_every_connection_is_another_program():
    """A reset in answer to the probe is no Ollama either."""

    async def main():
        async with raw_server(b"", reset=True) as url, connected(url) as client:
            with pytest.raises(errors.PortTaken):
                await client.probe()

    run(main())


def test_a_silent_program_is_given_up_soon():
    """
    Something takes the connection and never says a word: the probe ends in the time it was given.
    """

    async def main():
        async with raw_server(b"", hold=True) as url, connected(url) as client:
            began = time.monotonic()
            with pytest.raises(errors.ServerTimeout, match="says nothing"):
                await client.probe(within_s=0.3)
            assert time.monotonic() - began < 1

    run(main())


def test_liveness_does_not_wait_behind_answers():
    """With every connection for answers in use, the probe still comes back."""

    async def main():
        async with scripted(Rule(first_ms=60_000), slots=8) as (server, client):
            calls = [asyncio.create_task(said(client)) for _ in range(10)]
            await until(lambda: server.counters["in_flight"] == 8)
            assert await client.probe() == "0.33.0"
            assert [model.name for model in await client.list_models()] == ["llama3.1:latest"]
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    run(main())


def test_models_and_what_is_loaded():
    """A load shows among the residents with its window, and a keep_alive of 0 ends it."""

    async def main():
        async with scripted(models=("a", {"name": "b", "remote_host": "https://ollama.com"})) as (
            _,
            client,
        ):
            assert {model.name: model.remote for model in await client.list_models()} == {
                "a:latest": False,
                "b:latest": True,
            }
            assert await client.list_loaded_models() == []
            await client.load(ollama.encode_load(model="a", keep_alive="20m", num_ctx=2048))
            assert [
                (resident.name, resident.num_ctx) for resident in await client.list_loaded_models()
            ] == [("a:latest", 2048)]
            await client.load(ollama.encode_load(model="a", keep_alive=0, num_ctx=2048))
            while await client.list_loaded_models():
                await asyncio.sleep(0.001)

    run(main())


def test_a_load_that_fails_says_why():
    """The server's 500 at a load is what it means."""

    async def main():
        async with scripted(
            load_error="llama-server process has terminated: exit status 1: out of memory"
        ) as (_, client):
            with pytest.raises(errors.OutOfMemory):
                await client.load(
                    ollama.encode_load(model="llama3.1", keep_alive="20m", num_ctx=4096)
                )

    run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            reply('{"error":"store is broken"}', "500 Internal Server Error"),
            errors.ServerInternalError,
        ),
        (reply("[1]"), errors.ProtocolError),
        (reply("hello", kind="text/plain"), errors.ProtocolError),
        (reply("", "403 Forbidden"), errors.BadRequest),
    ],
)
def test_a_list_of_models_that_is_none(answer, error):
    """A refusal or another form is an error, never an empty list."""

    async def main():
        async with raw_server(answer) as url, connected(url) as client:
            with pytest.raises(error):
                await client.list_models()

    run(main())


def test_null_where_a_list_belongs_is_no_models():
    """`{"models": null}` is what some versions say when there are none."""

    async def main():
        async with raw_server(reply('{"models":null}')) as url, connected(url) as client:
            assert await client.list_models() == []

    run(main())


# Pull ---------------------------------------------------------------------------------------------


def layer(completed, total=100):
    return {
        "status": "pulling 1a2b",
        "digest": "sha256:1a2b",
        "total": total,
        **({"completed": completed} if completed else {}),
    }


async def pulled(client, name="tiny"):
    return [line async for line in client.pull(name)]


def test_a_pull_ends_with_success():
    """
    Progress as the server gives it, zero where it leaves the count out, down where it goes down.
    """
    lines = [{"status": "pulling manifest"}, layer(0), layer(60), layer(40), {"status": "success"}]

    async def main():
        async with scripted(pulls={"tiny:latest": lines}) as (server, client):
            found = await pulled(client)
            assert [(line.status, line.completed) for line in found[1:4]] == [
                ("pulling 1a2b", count) for count in (0, 60, 40)
            ]
            assert found[-1].status == "success"
            await client.load(ollama.encode_load(model="llama3.1", keep_alive="1m", num_ctx=4096))
            assert server.counters["connections_total"] == 1

    run(main())


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (
            [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}],
            errors.ModelNotFound,
        ),
        (
            [{"status": "pulling manifest"}, {"error": "max retries exceeded: unexpected EOF"}],
            errors.PullFailed,
        ),
        ([{"status": "pulling manifest"}, layer(60)], errors.PullFailed),
        ([], errors.PullFailed),
    ],
    ids=["unknown", "broken", "no success", "nothing"],
)
def test_a_pull_without_success_is_none(lines, error):
    """Only the word `success` proves a download; a clean end without it is a failure."""

    async def main():
        async with scripted(pulls={"tiny:latest": lines}) as (_, client):
            with pytest.raises(error):
                await pulled(client)

    run(main())


class SlowPull(ScriptedBackend):
    """A download that says something, then nothing until its gate opens."""

    def __init__(self):
        super().__init__()
        self.gate, self.left = asyncio.Event(), asyncio.Event()

    async def pull(self, name):
        try:
            yield layer(50)
            yield {"status": "verifying sha256 digest"}
            await self.gate.wait()
            yield {"status": "success"}
        finally:
            self.left.set()


def test_leaving_a_pull_stops_it():
    """The server sees the connection close and ends the download."""

    async def main():
        brain = SlowPull()
        async with serve(brain) as server, connected(server.url) as client:
            lines = client.pull("tiny")
            assert (await anext(lines)).completed == 50
            await lines.aclose()
            await brain.left.wait()

    run(main())


@pytest.mark.slow
def test_a_pull_may_be_silent_while_it_verifies():
    """Hashing many gigabytes says nothing for longer than the pause between two tokens may last."""

    async def main():
        brain = SlowPull()
        async with (
            serve(brain) as server,
            connected(server.url, timeout_s=0.1, load_timeout_s=30) as client,
        ):
            asyncio.get_running_loop().call_later(0.5, brain.gate.set)
            assert (await pulled(client))[-1].status == "success"

    run(main())


# Cloud --------------------------------------------------------------------------------------------


def test_cloud_models_are_refused_by_name_and_by_what_the_server_says():
    """A stub may have any name; `remote_host` in its entry gives it away."""
    remote = Model(name="mine:latest", remote=True)
    client = Client(Settings())
    for arguments in (("gpt-oss:120b-cloud",), ("x:cloud", None), ("mine", remote)):
        with pytest.raises(errors.CloudModelBlocked, match="leave this machine"):
            client.refuse_cloud(*arguments)
    client.refuse_cloud("llama3.1", Model(name="llama3.1:latest"))
    Client(Settings(allow_cloud=True)).refuse_cloud("gpt-oss:120b-cloud", remote)


# Many ---------------------------------------------------------------------------------------------


def test_more_than_eight_answers_at_once():
    """What URISK_PARALLEL allows, the connections allow."""

    async def main():
        async with scripted(Rule(first_ms=60_000), slots=12, settings={"parallel": 12}) as (
            server,
            client,
        ):
            calls = [asyncio.create_task(said(client)) for _ in range(12)]
            try:
                await asyncio.wait_for(until(lambda: server.counters["in_flight"] == 12), 1)
            finally:
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

    run(main())


def test_what_is_sent_is_what_was_given():
    """The bytes of a body reach the server unchanged, and no credentials go with them."""
    seen = []

    class Whole(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b'{"message":{"content":"ok"},"done":true}'

    def keep(request):
        seen.append(request)
        return httpx.Response(200, stream=Whole())

    async def main():
        async with connected("http://127.0.0.1:1", httpx.MockTransport(keep)) as client:
            await said(client, "Größe")

    run(main())
    assert seen[0].content == body("Größe")
    assert seen[0].headers["content-type"] == "application/json"
    assert not {"authorization", "cookie"} & set(seen[0].headers)
