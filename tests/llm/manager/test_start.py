"""The start: one for all who come at once, server found or started, model pulled and warm."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness import OllamaProgram, alive, children, eventually, free_port
from manager_env import answers, free_url, loading_at, on_loop, processes, scripted, server
from urisk_nb import errors, event_loop, process_state
from urisk_nb.llm.manager import LLMManager, is_demo
from urisk_nb.server import leases
from urisk_nb.server import model_server as server_module
from urisk_nb.settings import Engine

# One for all --------------------------------------------------------------------------------------


def test_twenty_who_start_at_once_get_one_manager():
    """
    Twenty threads that start at once get one manager over one server, and so does everybody after
    them.
    """
    before, url = children(), free_url()
    OllamaProgram(os.environ["PATH"])  # once: a program that runs cannot be written again

    def start(_):
        return LLMManager.initialize_sync(engine="ollama", url=url)

    with ThreadPoolExecutor(20) as pool:
        managers = list(pool.map(start, range(20)))
    assert {id(manager) for manager in managers} == {id(LLMManager.get_instance())}
    assert processes(before) == [managers[0].pid]
    assert LLMManager.initialize_sync() is managers[0]
    assert asyncio.run(LLMManager.initialize()) is managers[0]
    assert scripted(url=url) is managers[0]


def test_without_a_start_there_is_none():
    """The error names the command that helps."""
    with pytest.raises(errors.NotInitialized) as caught:
        LLMManager.get_instance()
    assert "%urisk_start" in caught.value.fix


@pytest.mark.slow
def test_a_failed_start_is_told_to_all_and_can_be_tried_again():
    """
    Ten wait for one start; it fails for each of them, leaves nothing, and the next one succeeds.
    """
    before, url = children(), free_url()

    def attempt(_):
        with pytest.raises(errors.PullFailed, match=r"nope.*llama3.1:latest"):
            scripted(url=url, model="nope")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(attempt, range(10)))
    assert children() == before
    with pytest.raises(errors.NotInitialized):
        LLMManager.get_instance()
    assert scripted(url=url).generate_sync("hi")


# Start --------------------------------------------------------------------------------------------


def test_a_start_tells_its_steps_and_knows_what_it_has():
    """
    Nothing answers: the engine is started, its model warmed, and the manager knows what it has;
    each step is told.
    """
    events, url = [], free_url()
    manager = scripted(url=url, progress=events.append)
    assert (manager.engine, manager.is_managed, manager.version) == (
        Engine.OLLAMA,
        True,
        "0.33.0",
    )
    assert (manager.model, manager.url, manager.parallel) == ("llama3.1:latest", url, 1)
    assert not is_demo(manager.model)
    assert alive(manager.pid)
    assert timedelta(0) <= datetime.now(UTC) - manager.started_at < timedelta(seconds=30)
    assert [event.step for event in events] == ["checking", "starting", "loading", "ready"]
    assert all(event.text for event in events)
    assert url in repr(manager)


def test_a_running_server_is_adopted():
    """
    What answers already is used as it is, warmed with the options of later calls, and not called
    ours.
    """
    events = []
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url, progress=events.append)
        assert (manager.is_managed, manager.pid) == (False, None)
        assert "starting" not in [event.step for event in events]
        assert other.counters["loads"] == 1


def test_an_ollama_on_the_path_is_started(ollama):
    """
    `ollama` on the PATH is started as `serve` at the address, kept from phoning home, and is ours.
    """
    ollama(models=["llama3.1"])
    url = free_url()
    manager = LLMManager.initialize_sync(url=url)
    assert (manager.engine, manager.is_managed, manager.version, manager.model) == (
        Engine.OLLAMA,
        True,
        "0.33.0",
        "llama3.1:latest",
    )
    environment = Path(f"/proc/{manager.pid}/environ").read_bytes().split(b"\0")
    assert {b"OLLAMA_NO_CLOUD=1", f"OLLAMA_HOST={url.removeprefix('http://')}".encode()} <= set(
        environment
    )
    assert "SCRIPTED" in manager.generate_sync("hi")


def test_a_missing_model_is_pulled_with_its_bytes_told(ollama):
    """A model that is missing is pulled, with its bytes told, and then answers."""
    layer = {"status": "pulling 1a2b", "digest": "sha256:1a2b", "total": 1000}
    lines = [
        {"status": "pulling manifest"},
        layer,
        {**layer, "completed": 600},
        {**layer, "completed": 1000},
    ]
    other = {"status": "pulling 3c4d", "digest": "sha256:3c4d", "total": 10, "completed": 10}
    pull = [*lines, other, {"status": "verifying sha256 digest"}, {"status": "success"}]
    ollama(models=[{"name": "llama3.1", "installed": False}], pulls={"llama3.1:latest": pull})
    events = []
    manager = LLMManager.initialize_sync(url=free_url(), progress=events.append)
    assert manager.generate_sync("hi")
    counts = [(event.done, event.total) for event in events if event.step == "pulling"]
    assert [pair for number, pair in enumerate(counts) if pair not in counts[:number]] == [
        (0, 0),
        (0, 1000),
        (600, 1000),
        (1000, 1000),
        (1010, 1010),
    ]


def test_a_model_that_does_not_exist_names_those_that_do(ollama):
    """
    Who mistypes a name sees what the server has; the server that was started for it is gone again.
    """
    missing = [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    ollama(models=["llama3.1", "qwen3:8b"], pulls={"lama3.1:latest": missing})
    before = children()
    with pytest.raises(errors.ModelNotFound, match=r"lama3\.1.*llama3\.1:latest, qwen3:8b"):
        LLMManager.initialize_sync(url=free_url(), model="lama3.1")
    assert children() == before


@pytest.mark.slow
def test_a_pull_that_fails_names_what_is_there(ollama):
    """No network: the server's words, and a model to use instead."""
    broken = [
        {"status": "pulling manifest"},
        {"error": 'pull model manifest: Get "https://r.example": dial tcp: no such host'},
    ]
    ollama(models=["qwen3:8b"], pulls={"llama3.1:latest": broken})
    with pytest.raises(errors.PullFailed, match="no such host") as caught:
        LLMManager.initialize_sync(url=free_url())
    assert "OLLAMA_MODEL=qwen3:8b" in caught.value.fix


def test_the_demo_model_is_known_by_its_name():
    """Tables by the small model say so, whichever engine runs it."""
    with server(models=("smollm2-135m", "smollm2:135m", "smollm2:1.7b")) as other:
        known = {
            name: is_demo(LLMManager.initialize_sync(url=other.url, model=name).model)
            for name in other._app._backend.scenario.models
        }
    assert known == {"smollm2-135m": True, "smollm2:135m": True, "smollm2:1.7b": False}


def test_the_judge_is_never_pulled():
    """
    Whatever a registry has under that name is not ours: the error says how to make it, and nothing
    was asked of the registry.
    """
    with server(models=("other",)) as other:
        manager = LLMManager.initialize_sync(url=other.url, model="other")
        with pytest.raises(errors.ModelNotFound, match="has no urisk-judge") as caught:
            event_loop.run(manager.ensure_model("urisk-judge"))
        assert "urisk install-judge" in caught.value.fix
        assert "/api/pull" not in other.counters["paths"]


def test_nothing_to_start():
    """No server, no Ollama, no model file: the ways out, and no process."""
    before = children()
    with pytest.raises(errors.OllamaNotInstalled) as caught:
        LLMManager.initialize_sync(url=free_url(), data="/nowhere")
    assert all(way in caught.value.fix for way in ("ollama.com/download", "urisk fetch-model"))
    assert children() == before


@pytest.mark.parametrize(
    "flags", [{"auto_start": False}, {"host": "0"}], ids=["switched off", "another machine"]
)
def test_a_server_that_may_not_be_started(flags):
    """
    Switched off, or not on this machine's loopback: nothing is started, and the fix says who has
    to.
    """
    before = children()
    url = f"http://{flags.pop('host', '127.0.0.1')}:{free_port()}"
    with pytest.raises(errors.ServerNotRunning, match="nothing answers"):
        LLMManager.initialize_sync(url=url, engine="ollama", **flags)
    assert children() == before


def test_a_server_that_ends_at_once_shows_its_last_words(program):
    """The exit code and the end of the log are in the message."""
    program("import sys; print('Error: could not find the store', file=sys.stderr); sys.exit(3)")
    with pytest.raises(errors.ServerStartFailed, match=r"exit code 3.*could not find the store"):
        LLMManager.initialize_sync(url=free_url())


ACCEPTS = """
    import os, socket, sys
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    with socket.create_server((host, int(port))) as listener:
        connection, _ = listener.accept()
        connection.recv(10)
        print("Error: no space for the store", file=sys.stderr, flush=True)
        os._exit(3)
"""


def test_a_server_that_ends_while_it_is_asked_shows_its_last_words(program):
    """
    Ollama listens before it answers; one that dies in between failed to start, and nobody else has
    the port.
    """
    program(ACCEPTS)
    with pytest.raises(errors.ServerStartFailed, match="no space for the store"):
        LLMManager.initialize_sync(url=free_url())


def test_who_loses_the_race_for_the_port_adopts_the_winner(monkeypatch):
    """
    Another kernel's server takes the port between our look and our start: it is used, and not
    called ours.
    """
    port, real = free_port(), leases.start
    before = children()
    with contextlib.ExitStack() as stack:

        async def late(engine, settings):
            stack.enter_context(server(port=port))
            return await real(engine, settings)

        monkeypatch.setattr(leases, "start", late)
        manager = scripted(url=f"http://127.0.0.1:{port}")
        assert (manager.is_managed, manager.pid) == (False, None)
        assert manager.generate_sync("hi")
        # The guardian of our own server ends a moment after it
        eventually(lambda: children() == before, 3, "the end of our guardian")
        manager.shutdown_sync()
        assert answers(f"http://127.0.0.1:{port}")


def test_a_port_that_is_taken_is_adopted_after_our_process_has_ended(monkeypatch):
    """
    The other way round: our process has ended with `address already in use`, and then the other
    server is found.
    """
    port, real, other = free_port(), leases.start, contextlib.ExitStack()

    async def late(engine, settings):
        other.enter_context(server(port=port))
        started = await real(engine, settings)
        await asyncio.wait_for(started.ended.wait(), 10)
        assert started.exit.code == 1
        return started

    monkeypatch.setattr(leases, "start", late)
    with other:
        manager = scripted(url=f"http://127.0.0.1:{port}")
        assert (manager.is_managed, manager.pid) == (False, None)
        assert manager.generate_sync("hi")
        manager.shutdown_sync()
        assert answers(manager.url)


def test_a_cancelled_start_leaves_nothing():
    """
    Who gives up while the model loads leaves no process and no half-made session, and may start
    again.
    """
    OllamaProgram(os.environ["PATH"])
    before, url = children(), free_url()

    async def main():
        loading = asyncio.Event()
        here = asyncio.get_running_loop()

        def progress(event):
            if event.step == "starting":
                here.call_soon_threadsafe(loading.set)

        start = asyncio.create_task(
            LLMManager.initialize(engine="ollama", url=url, progress=progress)
        )
        await loading.wait()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    asyncio.run(main())
    eventually(lambda: children() == before and process_state.get("manager.starting") is None, 3)
    with pytest.raises(errors.NotInitialized):
        LLMManager.get_instance()
    assert scripted(url=url).generate_sync("hi")


@pytest.mark.slow
def test_a_start_goes_on_while_somebody_waits():
    """The first of two gives up; the second still gets the session."""
    with server(load_ms=400) as other:

        async def main():
            first, second = (
                asyncio.create_task(LLMManager.initialize(url=other.url)) for _ in range(2)
            )
            await loading_at(other)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await second

        assert on_loop(main()) is LLMManager.get_instance()
        assert other.counters["loads"] == 1


@pytest.mark.slow
def test_a_start_that_follows_a_cancelled_one_is_its_own():
    """Interrupt and start again at once: the new start does not share the fate of the old one."""
    with server(load_ms=400) as other:

        async def main():
            first = asyncio.create_task(LLMManager.initialize(url=other.url))
            await loading_at(other)
            first.cancel()
            return await asyncio.create_task(LLMManager.initialize(url=other.url))

        assert on_loop(main()) is LLMManager.get_instance()


# Other programs at the address --------------------------------------------------------------------


@contextlib.contextmanager
def squatter(reply):
    """A program that takes connections, says this, and closes; or stays silent for None."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def body():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    if reply is not None:
                        connection.recv(4096)
                        connection.sendall(reply)
                        connection.close()

        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


@pytest.mark.row(34)
@pytest.mark.parametrize(
    "reply",
    [None, b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""],
    ids=["silent", "ssh", "404", "closes"],
)
@pytest.mark.slow
def test_another_program_at_the_address(reply):
    """
    Silence, another protocol, another web server: PortTaken within three seconds, nothing started,
    another address to copy.
    """
    before = children()
    with squatter(reply) as url:
        began = time.monotonic()
        with pytest.raises(errors.PortTaken) as caught:
            LLMManager.initialize_sync(url=url, engine="ollama")
        assert time.monotonic() - began < 3.2
    assert "OLLAMA_URL=" in caught.value.fix
    assert children() == before


def test_another_engine_at_the_address():
    """Who asks for the embedded engine is not given an Ollama, and the server there goes on."""
    with server() as other:
        with pytest.raises(errors.PortTaken, match=r"ollama engine.*not by the embedded one"):
            LLMManager.initialize_sync(url=other.url, engine="embedded")
        assert answers(other.url)


@pytest.mark.parametrize(
    ("uid", "shared", "refused"),
    [
        (4242, False, True),
        (4242, True, False),
        (999, False, False),
        (None, False, False),
        (os.getuid(), False, False),
    ],
    ids=["a person", "allowed", "a service", "unknown", "ours"],
)
def test_a_server_of_another_person_is_refused(monkeypatch, uid, shared, refused):
    """
    On a shared machine evidence must not go to a stranger's server; a service's, our own, or an
    unknown one is fine.
    """
    with server() as other:
        monkeypatch.setattr(
            server_module.port, "owner_uid", lambda port: uid if port == other.port else -1
        )
        if not refused:
            assert (
                LLMManager.initialize_sync(url=other.url, allow_shared=shared).is_managed is False
            )
            return
        with pytest.raises(errors.ServerOwnedByOtherUser, match="4242"):
            LLMManager.initialize_sync(url=other.url)
        assert "/api/chat" not in other.counters["paths"]


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "mine"])
def test_a_cloud_model_is_refused_before_anything_is_sent(name):
    """
    By its name, or by what the server's list says of it: no text, not even a load, reaches the
    server.
    """
    with server(
        models=("llama3.1", {"name": "mine", "remote_host": "https://ollama.com"})
    ) as other:
        with pytest.raises(errors.CloudModelBlocked, match="leave this machine"):
            LLMManager.initialize_sync(url=other.url, model=name)
        assert set(other.counters["paths"]) == {"/api/version", "/api/tags"}
