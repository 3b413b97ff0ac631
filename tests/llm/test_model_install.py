"""
The judge made on a server of one file: what is sent, what is proof, and what each way to fail
leaves behind.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import urllib.request

import pytest

from fake_ollama import Scenario, ScriptedBackend, running, serve
from harness import FakeOllama, OllamaProgram, alive, eventually, free_port
from urisk_nb import errors, process_state
from urisk_nb.embedded import weights
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import JUDGE, is_judge
from urisk_nb.llm.model_install import create_judge
from urisk_nb.server.model_server import ServerState
from urisk_nb.settings import Settings

BASE = "smollm2:135m"
LIMIT_S = 20
NO_MORE = "LoRA adapters are no longer supported"


def test_one_name_on_both_sides():
    """The embedded engine serves the judge under the name by which it is asked shortly."""
    assert weights.JUDGE == JUDGE
    assert is_judge(f"{weights.JUDGE}:latest")


def hex_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def file(tmp_path):
    """A file of several blocks that looks like a model."""
    path = tmp_path / "urisk-judge.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 3000)
    return path


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, run_folder):
    """Places of a test's own, and no session left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    yield
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()


@pytest.fixture
def started(fake_ollama_with):
    """
    A session over a fake Ollama that looks like an Ollama with one model beside the base.
    """

    def start(**scenario):
        server = fake_ollama_with(
            {
                "models": ["llama3.1", {"name": BASE, "installed": False}],
                "version": "0.33.0",
                **scenario,
            }
        )
        return server, LLMManager.initialize_sync(url=server.url, model="llama3.1")

    return start


def made(manager, file, *, digest=None, show=lambda _: None):
    return run(create_judge(manager, file, digest or hex_of(file), show))


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT_S))


def models(manager):
    async def main():
        async with connected(manager.url) as client:
            return {model.name: model.digest for model in await client.list_models()}

    return asyncio.run(main())


@contextlib.asynccontextmanager
async def connected(url, **flags):
    client = Client(Settings(url=url, **flags))
    try:
        yield client
    finally:
        await client.aclose()


def asked(server, digest):
    """How often the server was asked about the file, and how often for a pull and a create."""
    paths = server.counters()["paths"]
    return [
        paths.get(path, 0) for path in (f"/api/blobs/sha256:{digest}", "/api/pull", "/api/create")
    ]


# Install ------------------------------------------------------------------------------------------


def test_a_damaged_file_is_refused_by_the_server(started, file):
    """Its hash is not the one that was promised: no model, and a way out."""
    server, manager = started()
    with pytest.raises(errors.BadRequest, match="digest mismatch, expected") as caught:
        made(manager, file, digest="0" * 64)
    assert "install urisk-nb again" in caught.value.fix
    assert asked(server, "0" * 64) == [2, 0, 0]
    assert f"{JUDGE}:latest" not in models(manager)


def test_a_file_that_cannot_be_read_is_an_error_of_ours(started, file):
    """Named with its path; the session goes on."""
    _, manager = started()
    with pytest.raises(errors.InputError, match=r"none\.gguf cannot be read: No such file"):
        made(manager, file.with_name("none.gguf"), digest="0" * 64)
    assert made(manager, file)


def test_a_whole_file_needs_no_base_and_is_sent_once(started, file):
    """
    Nothing is pulled; the model answers; a second time sends and changes nothing, another file
    takes its place.
    """
    server, manager = started(version="0.34.2", create_error=NO_MORE)
    steps = []
    assert made(manager, file, show=steps.append)
    assert asked(server, hex_of(file)) == [2, 0, 1]
    assert [str(step).split()[0] for step in (steps[0], steps[1], steps[-1])] == [
        "Sending",
        "Making",
        "Loading",
    ]
    before = models(manager)
    assert set(before) == {"llama3.1:latest", f"{JUDGE}:latest"}
    assert "SCRIPTED" in manager.ask_sync(
        b'{"messages":[{"role":"user","content":"hi"}],"options":{}}', JUDGE
    )
    loads = server.counters()["loads"]
    assert not made(manager, file)
    assert models(manager) == before
    assert asked(server, hex_of(file)) == [3, 0, 2]
    assert server.counters()["loads"] == loads
    file.write_bytes(file.read_bytes() + b".")
    assert made(manager, file)
    assert models(manager) != before
    assert server.counters()["loads"] == loads + 1
    assert manager.model == "llama3.1"


def test_a_manager_without_a_model_is_enough(fake_ollama_with, file):
    """
    `connect` touches no model, and is not the session of the process.
    """
    server = fake_ollama_with(
        {"models": ["llama3.1", {"name": BASE, "installed": False}], "version": "0.33.0"}
    )
    manager = run(LLMManager.connect(url=server.url, model="nope"))
    try:
        assert set(server.counters()["paths"]) == {"/api/version"}
        assert not LLMManager.is_starting()
        assert process_state.get("manager") is None
        assert made(manager, file)
    finally:
        manager.shutdown_sync()


@pytest.mark.slow
def test_a_server_of_ours_that_ends_is_started_again_without_a_model(monkeypatch, tmp_path, file):
    """
    There is none to load: a manager that took no model goes on, and stops its server at the end.
    """
    with OllamaProgram(tmp_path / "bin", {"models": ["llama3.1"], "version": "0.34.2"}):
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        manager = run(
            LLMManager.connect(url=f"http://127.0.0.1:{free_port()}", engine="ollama", model="nope")
        )
        try:
            first = manager.pid
            os.kill(first, signal.SIGKILL)
            eventually(
                lambda: manager.restart_count == 1 and manager.state == ServerState.MANAGED,
                10,
                "another server",
            )
            assert made(manager, file)
            second = manager.pid
            with urllib.request.urlopen(f"{manager.url}/urisk/counters", timeout=5) as reply:
                assert json.load(reply)["paths"]["/api/chat"] == 1  # that the judge loads
        finally:
            manager.shutdown_sync()
    eventually(lambda: not alive(second), 5, "the end of the server")


def test_a_whole_file_that_does_not_load_is_told(file):
    """The model is there and of no use."""

    class Unloadable(ScriptedBackend):
        async def load(self, model, num_ctx):
            if model.name.startswith(JUDGE):
                self.scenario = Scenario(
                    load_error="llama-server process has terminated: exit status 1: error loading "
                    "model"
                )
            return await super().load(model, num_ctx)

    with running(Unloadable()) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        with pytest.raises(
            errors.ModelUnsuitable, match=r"was made of urisk-judge\.gguf, and cannot be loaded"
        ) as caught:
            made(manager, file)
        assert "update Ollama" in caught.value.fix
        manager.shutdown_sync()


def test_a_server_that_makes_no_models_says_so(file):
    """No such path: which server it is, and what does make them."""

    class Fixed(ScriptedBackend):
        creates = False

    with running(Fixed()) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        with pytest.raises(
            errors.BadRequest, match=r"ollama server at .* makes no models"
        ) as caught:
            made(manager, file)
        assert "Ollama" in caught.value.fix
        manager.shutdown_sync()


@pytest.mark.slow
def test_a_server_that_is_lost_on_the_way_leaves_an_error_and_no_model(started, file):
    """
    It is killed between two lines of the creation: ServerConnectionLost, at once; where it comes up
    again, the same call succeeds.
    """
    server, manager = started(create_ms=60_000)

    def kill(event):
        if "parsing" in str(event):
            server.process.kill()

    with pytest.raises(errors.ServerConnectionLost):
        made(manager, file, show=kill)
    assert server.process.wait(5) < 0
    again = FakeOllama("--port", server.url.rpartition(":")[2])
    try:
        manager = LLMManager.initialize_sync(url=again.url, model="llama3.1")
        assert made(manager, file)
    finally:
        manager.shutdown_sync()
        again.stop()


@pytest.mark.slow
def test_who_leaves_gives_the_creation_up(started, file):
    """
    A cancel in the middle closes the connection; the server makes nothing, and the session answers
    on.
    """
    server, manager = started(create_ms=60_000)
    seen, before = [], server.counters()["connections_open"]

    async def main():
        task = asyncio.create_task(create_judge(manager, file, hex_of(file), seen.append))
        while not any("parsing" in str(event) for event in seen):
            await asyncio.sleep(0.01)
        assert server.counters()["connections_open"] > before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
    eventually(
        lambda: server.counters()["connections_open"] <= before, 5, "the end of the connection"
    )
    assert f"{JUDGE}:latest" not in models(manager)
    assert "SCRIPTED" in manager.generate_sync("hi")


# The client ---------------------------------------------------------------------------------------


def test_a_file_is_sent_as_it_is_over_a_connection_that_is_kept(file):
    """In blocks, whole; what is there is accepted again."""

    async def main():
        digest = f"sha256:{hex_of(file)}"
        async with serve(ScriptedBackend()) as server, connected(server.url) as client:
            assert not await client.has_blob(digest)
            for _ in range(3):
                await client.put_blob(digest, file)
                assert await client.has_blob(digest)
            assert server.counters["connections_total"] == 2

    run(main())


def test_a_digest_that_is_none_is_a_refusal(file):
    """Not taken for a file that is missing."""

    async def main():
        async with serve(ScriptedBackend()) as server, connected(server.url) as client:
            with pytest.raises(errors.BadRequest):
                await client.has_blob("sha256:12")
            with pytest.raises(errors.BadRequest, match="invalid digest format"):
                await client.put_blob("sha256:12", file)

    run(main())


def test_a_server_that_takes_the_file_and_says_nothing_is_timed(file):
    """Within the load timeout, with the variable that gives it longer."""

    async def main(url):
        async with connected(url, load_timeout_s=0.2) as client:
            with pytest.raises(
                errors.ServerTimeout, match=r"silent for 0.2 s while it was sent a file"
            ) as caught:
                await client.put_blob("sha256:" + "0" * 64, file)
            assert "URISK_LOAD_TIMEOUT" in caught.value.fix

    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes connections, reads nothing
        run(main(f"http://127.0.0.1:{listener.getsockname()[1]}"))


def reply(*lines):
    body = "".join(f"{line}\n" for line in lines).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n" + body
    )


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (
            ['{"status":"parsing GGUF"}', '{"error":"open /blobs/x: no such file or directory"}'],
            errors.ServerInternalError,
        ),
        (
            [
                '{"status":"pulling manifest"}',
                '{"error":"pull model manifest: file does not exist"}',
            ],
            errors.ModelNotFound,
        ),
        (
            ['{"status":"parsing GGUF"}', '{"error":"write /x: no space left on device"}'],
            errors.DiskFull,
        ),
        (
            ['{"status":"parsing GGUF"}', '{"status":"writing manifest"}'],
            errors.ServerInternalError,
        ),
        ([], errors.ServerInternalError),
    ],
    ids=["blob", "base", "disk", "no success", "nothing"],
)
def test_a_creation_without_success_is_none(lines, error):
    """Only the word `success` proves it; error lines mean what they mean elsewhere."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(*lines))
        await writer.drain()
        writer.close()

    async def main():
        listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with (
            listener,
            connected(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}") as client,
        ):
            with pytest.raises(error):
                _ = [
                    step
                    async for step in client.create(
                        JUDGE, base=BASE, adapters={"a.gguf": "sha256:0"}
                    )
                ]

    run(main())


def test_a_creations_body_has_what_ollama_reads():
    """Key by key."""
    body = ollama.encode_create(JUDGE, base=BASE, adapters={"urisk-judge.gguf": "sha256:00"})
    assert body == (
        b'{"model":"urisk-judge","from":"smollm2:135m",'
        b'"adapters":{"urisk-judge.gguf":"sha256:00"},"stream":true}'
    )
    body = ollama.encode_create(JUDGE, files={"urisk-judge.gguf": "sha256:00"})
    assert body == b'{"model":"urisk-judge","files":{"urisk-judge.gguf":"sha256:00"},"stream":true}'
