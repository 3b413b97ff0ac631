"""Small requests on real sockets: probes, lists, loads, pulls; what failures of httpx become."""

import asyncio
import contextlib
import time

import httpx
import pytest

from client_driver import connected, raw_server, reply, run, said, scripted, until
from fake_ollama import Rule, ScriptedBackend, serve
from urisk_nb import errors
from urisk_nb.llm.client import HTTPX_ERRORS, Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.messages import Model
from urisk_nb.settings import Settings

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


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 400,
        reply("404 page not found", "404 Not Found", "text/plain"),
        reply("[]"),
        reply('{"name":"x"}'),
        reply('{"version":3}'),
        b"",
    ],
    ids=[
        "ssh",
        "garbage",
        "404",
        "list",
        "nameless",
        "number",
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
        (reply("", "403 Forbidden"), errors.AccessDenied),
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
        backend = SlowPull()
        async with serve(backend) as server, connected(server.url) as client:
            lines = client.pull("tiny")
            assert (await anext(lines)).completed == 50
            await lines.aclose()
            await backend.left.wait()

    run(main())


@pytest.mark.slow
def test_a_pull_may_be_silent_while_it_verifies():
    """Hashing many gigabytes says nothing for longer than the pause between two tokens may last."""

    async def main():
        backend = SlowPull()
        async with (
            serve(backend) as server,
            connected(server.url, timeout_s=0.1, load_timeout_s=30) as client,
        ):
            asyncio.get_running_loop().call_later(0.5, backend.gate.set)
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
