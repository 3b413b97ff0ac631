"""Chats on real sockets: what is sent and closed, how silence is timed, how a stream may break."""

import asyncio
import time

import httpx
import pytest

from client_driver import WORDS, body, connected, raw_server, run, said, scripted, until
from fake_ollama import Rule
from harness import free_port
from urisk_nb import errors
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.messages import Final

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
            assert caught.value.facts["said"] == " ".join(text.split())

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
