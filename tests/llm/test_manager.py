"""
The manager's six steps with real servers and processes: start, check, load, session, requests,
shutdown; and what breaks in each.
"""

import asyncio
import contextlib
import copy
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import OllamaProgram, alive, children, eventually, free_port
from urisk_nb import errors, event_loop, process_state
from urisk_nb.llm import resilience
from urisk_nb.llm.manager import Answer, LLMManager
from urisk_nb.server import leases
from urisk_nb.server import model_server as server_module
from urisk_nb.settings import Engine

ROOT = Path(leases.__file__).parents[2]
SECONDS_TO_PROMPT = 0.25
SLOW = Rule(contains="slow", answer="word " * 2000, token_ms=5)


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """Logs, data and programs of a test's own, no `.env` above it, and no session left."""
    for name in ("logs", "data", "bin", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()
        process_state.forget("manager")


@pytest.fixture
def ollama(tmp_path):
    """
    Make an `ollama` on the PATH that serves as the real one does, with these models and rules.
    """
    return lambda **scenario: OllamaProgram(tmp_path / "bin", scenario).path


@contextlib.contextmanager
def server(*rules, port=0, **scenario):
    """A scripted server of others, in a thread."""
    with running(ScriptedBackend(Scenario(rules=rules, **scenario)), port=port) as started:
        yield started


def free_url():
    return f"http://127.0.0.1:{free_port()}"


def answers(url):
    """Whether a server answers at the address."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"{url}/api/version", timeout=2) as reply,
    ):
        return json.load(reply)["version"]
    return None


@contextlib.contextmanager
def in_thread(function, *arguments, **named):
    """Run the function in a thread meanwhile; the block gets its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function, *arguments, **named)


def processes(before):
    """The servers under the guardians that were started since; each guardian has one."""
    return [server for guardian in children() - before for server in children(guardian)]


def scripted(**flags):
    """Start a session over a server of ours: of the fake `ollama`, put on the PATH for this."""
    OllamaProgram(os.environ["PATH"])
    return LLMManager.initialize_sync(engine="ollama", **{"url": free_url(), **flags})


# One for all --------------------------------------------------------------------------------------


def test_twenty_who_start_at_once_get_one_manager():
    """
    Twenty threads that start at once get one manager over one server, and so does everybody after
    them.
    """
    before, url = children(), free_url()
    with ThreadPoolExecutor(20) as pool:
        managers = list(pool.map(lambda _: scripted(url=url), range(20)))
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
    assert not manager.is_demo_model
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
    with server() as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, progress=events.append)
        assert (manager.is_managed, manager.pid) == (False, None)
        assert "starting" not in [event.step for event in events]
        assert top_logprobs.counters["loads"] == 1


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
    with server(models=("smollm2-135m", "smollm2:135m", "smollm2:1.7b")) as top_logprobs:
        known = {
            name: LLMManager.initialize_sync(url=top_logprobs.url, model=name).is_demo_model
            for name in top_logprobs._app._backend.scenario.models
        }
    assert known == {"smollm2-135m": True, "smollm2:135m": True, "smollm2:1.7b": False}


def test_the_judge_is_never_pulled():
    """
    Whatever a registry has under that name is not ours: the error says how to make it, and nothing
    was asked of the registry.
    """
    with server(models=("other",)) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, model="other")
        with pytest.raises(errors.ModelNotFound, match="has no urisk-judge") as caught:
            event_loop.run(manager.ensure_model("urisk-judge"))
        assert "urisk install-judge" in caught.value.fix
        assert "/api/pull" not in top_logprobs.counters["paths"]


def test_nothing_to_start():
    """No server, no Ollama, no model file: the ways out, and no process."""
    before = children()
    with pytest.raises(errors.OllamaNotInstalled) as caught:
        LLMManager.initialize_sync(url=free_url(), data="/nowhere")
    assert all(way in caught.value.fix for way in ("ollama.com/download", "urisk fetch-model"))
    assert children() == before


@pytest.mark.parametrize(
    "flags", [{"auto_start": False}, {"host": "0.0.0.0"}], ids=["switched off", "another machine"]
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
        assert children() == before
        manager.shutdown_sync()
        assert answers(f"http://127.0.0.1:{port}")


def test_a_port_that_is_taken_is_adopted_after_our_process_has_ended(monkeypatch):
    """
    The other way round: our process has ended with `address already in use`, and then the other
    server is found.
    """
    port, real, top_logprobs = free_port(), leases.start, contextlib.ExitStack()

    async def late(engine, settings):
        top_logprobs.enter_context(server(port=port))
        started = await real(engine, settings)
        await asyncio.wait_for(started.ended.wait(), 10)
        assert started.exit.code == 1
        return started

    monkeypatch.setattr(leases, "start", late)
    with top_logprobs:
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


def on_loop(coroutine):
    return event_loop.run(asyncio.wait_for(coroutine, 20))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def loading_at(top_logprobs):
    await until(lambda: top_logprobs.counters["paths"].get("/api/chat"))


@pytest.mark.slow
def test_a_start_goes_on_while_somebody_waits():
    """The first of two gives up; the second still gets the session."""
    with server(load_ms=400) as top_logprobs:

        async def main():
            first, second = (
                asyncio.create_task(LLMManager.initialize(url=top_logprobs.url)) for _ in range(2)
            )
            await loading_at(top_logprobs)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await second

        assert on_loop(main()) is LLMManager.get_instance()
        assert top_logprobs.counters["loads"] == 1


@pytest.mark.slow
def test_a_start_that_follows_a_cancelled_one_is_its_own():
    """Interrupt and start again at once: the new start does not share the fate of the old one."""
    with server(load_ms=400) as top_logprobs:

        async def main():
            first = asyncio.create_task(LLMManager.initialize(url=top_logprobs.url))
            await loading_at(top_logprobs)
            first.cancel()
            return await asyncio.create_task(LLMManager.initialize(url=top_logprobs.url))

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
    with server() as top_logprobs:
        with pytest.raises(errors.PortTaken, match=r"ollama engine.*not by the embedded one"):
            LLMManager.initialize_sync(url=top_logprobs.url, engine="embedded")
        assert answers(top_logprobs.url)


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
    with server() as top_logprobs:
        monkeypatch.setattr(
            server_module.port, "owner_uid", lambda port: uid if port == top_logprobs.port else -1
        )
        if not refused:
            assert (
                LLMManager.initialize_sync(url=top_logprobs.url, allow_shared=shared).is_managed
                is False
            )
            return
        with pytest.raises(errors.ServerOwnedByOtherUser, match="4242"):
            LLMManager.initialize_sync(url=top_logprobs.url)
        assert "/api/chat" not in top_logprobs.counters["paths"]


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "mine"])
def test_a_cloud_model_is_refused_before_anything_is_sent(name):
    """
    By its name, or by what the server's list says of it: no text, not even a load, reaches the
    server.
    """
    with server(
        models=("llama3.1", {"name": "mine", "remote_host": "https://ollama.com"})
    ) as top_logprobs:
        with pytest.raises(errors.CloudModelBlocked, match="leave this machine"):
            LLMManager.initialize_sync(url=top_logprobs.url, model=name)
        assert set(top_logprobs.counters["paths"]) == {"/api/version", "/api/tags"}


# Session ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_calls_share_one_load_and_one_connection():
    """
    Calls from threads and loops that come and go use one load and a handful of connections,
    whatever options they bring.
    """
    with server(Rule(answer=["ok"])) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)
        for number in range(10):
            assert (
                manager.generate_sync("hi", options={"num_ctx": 512 + number, "seed": number})
                == "ok"
            )
            assert asyncio.run(manager.generate("hi", "you are short")) == "ok"
            assert manager.chat_sync([{"role": "user", "content": "hi"}]) == "ok"
            assert "".join(manager.stream_sync("hi")) == "ok"
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(manager.generate_sync, ["hi"] * 24)) == {"ok"}
        assert top_logprobs.counters["loads"] == 1
        assert top_logprobs.counters["connections_total"] <= 4
        assert top_logprobs.counters["paths"]["/api/chat"] == 1 + 40 + 24


def test_what_changes_only_the_call_keeps_the_server():
    """
    Another timeout or model: the same session goes on with it, over the same process, the earlier
    timings kept.
    """
    first = scripted()
    first.generate_sync("hi")
    pid = first.pid
    second = LLMManager.initialize_sync(timeout_s=77)
    assert second is LLMManager.get_instance() is first
    assert (second.pid, second.settings.timeout_s, second.engine, len(second.calls)) == (
        pid,
        77,
        Engine.OLLAMA,
        1,
    )
    assert alive(pid)
    assert second.generate_sync("hi")


@pytest.mark.slow
def test_what_changes_the_server_starts_another():
    """Another window of context is another server: the first ends, one is left."""
    before = children()
    first = scripted()
    pid = first.pid
    second = LLMManager.initialize_sync(num_ctx=2048)
    assert second.pid != pid
    assert processes(before) == [second.pid]
    assert second.settings.engine is Engine.OLLAMA


@pytest.mark.slow
def test_a_change_that_fails_leaves_a_usable_session():
    """
    A mistyped model must not cost the session: what ran before still answers, or at least a plain
    start works again.
    """
    scripted()
    with pytest.raises(errors.ModelError):
        LLMManager.initialize_sync(model="nope")
    assert LLMManager.initialize_sync(model="llama3.1").generate_sync("hi")
    manager = LLMManager.get_instance()
    pid, before = manager.pid, manager.settings
    with pytest.raises(errors.ModelError):
        LLMManager.initialize_sync(model="nope", timeout_s=3)
    assert LLMManager.initialize_sync() is manager
    assert (manager.pid, manager.model, manager.settings) == (pid, "llama3.1", before)
    assert manager.generate_sync("hi").model == "llama3.1"


def test_a_call_under_way_survives_a_change_of_timeouts():
    """
    Starting again with another timeout does not cut off an answer that somebody else is waiting
    for.
    """
    with server(Rule(answer="a b c", token_ms=150)) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, max_retries=0)
        with in_thread(manager.generate_sync, "hi") as call:
            eventually(lambda: top_logprobs.counters["in_flight"] == 1)
            LLMManager.initialize_sync(timeout_s=77)
            assert call.result(10) == "a b c"


def test_a_call_under_way_keeps_the_model_that_it_was_asked_with():
    """
    Whose words an answer is must be true, even when the session goes on to another model meanwhile.
    """
    with server(
        Rule(answer="a b c", model="first:latest", token_ms=150), models=("first", "second")
    ) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, model="first")
        with in_thread(manager.generate_sync, "hi") as call:
            eventually(lambda: top_logprobs.counters["in_flight"] == 1)
            LLMManager.initialize_sync(model="second")
            assert call.result(10).model == "first"
        assert top_logprobs.counters["recent"][0]["model"] == "first:latest"
        assert manager.generate_sync("hi").model == "second"


def test_a_change_is_told_to_its_end():
    """Who asks for another model sees it loaded and ready."""
    events = []
    with server(models=("first", "second")) as top_logprobs:
        LLMManager.initialize_sync(url=top_logprobs.url, model="first")
        LLMManager.initialize_sync(model="second", progress=events.append)
    assert [event.step for event in events][-2:] == ["loading", "ready"]
    assert "second" in events[-1].text


@pytest.mark.slow
def test_a_start_after_the_servers_end_finds_another():
    """
    The fix of a lost server says %urisk_start: that must bring the session back, with a server of
    ours if need be.
    """
    with server() as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, max_retries=0)
    OllamaProgram(os.environ["PATH"])
    with pytest.raises(errors.ServerNotRunning) as caught:
        manager.generate_sync("hi")
    assert "%urisk_start" in caught.value.fix
    manager = LLMManager.initialize_sync()
    assert "SCRIPTED" in manager.generate_sync("hi")
    assert manager.is_managed


@pytest.mark.slow
def test_another_model_after_a_crash_of_our_server():
    """A change finds the server down and starts it, as a call would."""
    manager = scripted()
    pid = manager.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    with pytest.raises(errors.PullFailed, match=r"server has: llama3\.1:latest"):
        LLMManager.initialize_sync(model="nope")


def test_an_ollama_that_is_a_wrapper_is_ours_too(ollama, program, tmp_path, monkeypatch):
    """
    Some packages put a script on the PATH that runs the real program as its child: that child's
    answer is our server's.
    """
    monkeypatch.setattr(server_module, "READY_S", 4.0)
    ollama(models=["llama3.1"])
    (tmp_path / "bin" / "ollama").rename(tmp_path / "bin" / "real")
    program(
        f"import subprocess, sys; sys.exit(subprocess.call([{str(tmp_path / 'bin' / 'real')!r}, "
        "*sys.argv[1:]]))"
    )
    before, url = children(), free_url()
    manager = LLMManager.initialize_sync(url=url)
    assert manager.is_managed
    manager.shutdown_sync()
    assert children() == before
    assert answers(url) is None


# Answers ------------------------------------------------------------------------------------------


def test_an_answer_knows_where_it_came_from():
    """
    It is a str with the model, the engine, the end, and phases that add up; the manager keeps its
    timing.
    """
    with server(Rule(answer="a b c", first_ms=60, token_ms=20)) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)
        answer = manager.generate_sync("hi")
    assert answer == "a b c"
    assert isinstance(answer, Answer)
    told = (answer.model, answer.engine, answer.done_reason, answer.thinking)
    assert told == ("llama3.1:latest", "ollama", "stop", "")
    timing = answer.timing
    assert list(manager.calls) == [timing]
    assert timing.queue_s + timing.load_s + timing.prompt_s + timing.generation_s == pytest.approx(
        timing.server_total_s
    )
    assert (timing.tokens, timing.attempts) == (3, 1)
    assert timing.prompt_tokens == top_logprobs.counters["recent"][0]["prompt_new"]
    assert 0.06 <= timing.first_token_s <= timing.total_s - 0.03
    assert timing.server_total_s <= timing.total_s
    assert timing.generation_s >= 0.04


def test_an_answer_goes_through_pickle_and_copy():
    """Dask and multiprocessing hand it on whole."""
    answer = scripted().generate_sync("hi")
    for twin in (pickle.loads(pickle.dumps(answer)), copy.copy(answer), copy.deepcopy(answer)):
        assert twin == answer
        assert type(twin) is Answer
        assert (twin.model, twin.engine, twin.done_reason, twin.timing) == (
            answer.model,
            answer.engine,
            answer.done_reason,
            answer.timing,
        )


def test_an_answer_that_is_cut_says_so():
    """A limit on tokens ends with `length`."""
    with server(Rule(answer="a b c d")) as top_logprobs:
        answer = LLMManager.initialize_sync(url=top_logprobs.url).generate_sync(
            "hi", options={"num_predict": 2}
        )
        assert (answer, answer.done_reason) == ("a b", "length")


def test_a_question_is_asked_with_its_own_schema():
    """
    The bytes of a question go out with the session's model; what comes back keeps to the schema.
    """
    schema = {
        "type": "object",
        "required": ["risk", "severity"],
        "properties": {"risk": {"enum": ["legal", "none"]}, "severity": {"type": "integer"}},
    }
    message = {"role": "user", "content": "It was fined by the court."}
    payload = json.dumps({"format": schema, "messages": [message], "options": {"seed": 1}}).encode()
    manager = scripted()
    for answer in (manager.ask_sync(payload), asyncio.run(manager.ask(payload))):
        assert json.loads(answer)["risk"] == "legal"


def test_a_stream_gives_pieces_and_then_the_answer():
    """
    Blocking and on any loop: the pieces are the answer, which is there at the end and not before.
    """
    with server(Rule(answer="one two three")) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)
        stream = manager.stream_sync("hi")
        with pytest.raises(errors.NotInitialized, match="not ended"):
            _ = stream.answer
        pieces = list(stream)
        assert pieces == ["one", " two", " three"]
        assert stream.answer == "one two three"

        async def main():
            stream = manager.stream("hi")
            return [piece async for piece in stream], stream.answer

        for way in (asyncio.run, event_loop.run):
            assert way(main()) == (pieces, "one two three")
        assert len(manager.calls) == 3


def test_leaving_a_stream_stops_the_generation():
    """A loop that breaks off, blocking or not, frees the server for the next call."""
    with server(SLOW) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)
        for _ in manager.stream_sync("slow"):
            break
        eventually(
            lambda: top_logprobs.counters["aborted"] == 1 and not top_logprobs.counters["in_flight"]
        )

        async def main():
            async with contextlib.aclosing(aiter(manager.stream("slow"))) as pieces:
                async for _ in pieces:
                    break

        asyncio.run(main())
        eventually(
            lambda: top_logprobs.counters["aborted"] == 2 and not top_logprobs.counters["in_flight"]
        )
        assert manager.generate_sync("next")
        assert [call.tokens > 0 for call in manager.calls] == [True]


@pytest.mark.parametrize("prompt", ["", "  \n", None, 3])
def test_a_prompt_without_text_is_refused(prompt):
    """Nothing is sent for it."""
    with server() as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)
        with pytest.raises(errors.InputError):
            manager.generate_sync(prompt)
        assert top_logprobs.counters["paths"]["/api/chat"] == 1


def test_a_chat_without_messages_is_refused():
    """It would load the model and give an empty answer."""
    manager = scripted()
    with pytest.raises(errors.InputError):
        manager.chat_sync([])


@pytest.mark.parametrize("value", [float("nan"), complex(1)])
def test_an_option_that_cannot_be_sent_is_refused(value):
    """Our error, with what was seen; not one of the JSON module."""
    manager = scripted()
    with pytest.raises(errors.InputError):
        manager.generate_sync("hi", options={"seed": value})


# Many at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [None, 3])
def test_as_many_calls_in_flight_as_allowed(parallel):
    """One by default, or what was asked for, and never more, however many threads come."""
    with server(Rule(answer="a", first_ms=30), slots=8) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, parallel=parallel)
        with ThreadPoolExecutor(9) as pool:
            assert list(pool.map(manager.generate_sync, ["hi"] * 9)) == ["a"] * 9
        assert top_logprobs.counters["peak_in_flight"] == (parallel or 1)


@pytest.mark.slow
def test_those_who_wait_are_served_in_order():
    """First come, first served; the time in our queue is told, and a long wait is no timeout."""
    with server(Rule(first_ms=120, contains="first"), Rule(answer=["ok"])) as top_logprobs:
        manager = LLMManager.initialize_sync(
            url=top_logprobs.url, load_timeout_s=0.3, timeout_s=0.3
        )
        ended = []

        async def ask(text):
            answer = await manager.generate(text)
            ended.append(text)
            return answer

        async def main():
            return await asyncio.gather(
                *(ask(f"{place} of many") for place in ("first", "second", "third", "fourth"))
            )

        found = on_loop(main())
        assert ended == [f"{place} of many" for place in ("first", "second", "third", "fourth")]
        assert found[0].timing.wait_s < 0.05
        assert found[3].timing.wait_s >= 0.12
        assert found[3].timing.first_token_s < 0.12


@pytest.mark.slow
def test_who_gives_up_waiting_frees_the_place():
    """A waiting call that is cancelled is never sent, and those behind it move up."""
    with server(
        Rule(contains="slow", answer="a", first_ms=300), Rule(answer=["ok"])
    ) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)

        async def main():
            calls = [
                asyncio.create_task(manager.generate(text)) for text in ("slow", "leaves", "stays")
            ]
            await until(lambda: top_logprobs.counters["in_flight"])
            calls[1].cancel()
            return await asyncio.gather(*calls, return_exceptions=True)

        found = on_loop(main())
        assert [found[0], found[2]] == ["a", "ok"]
        assert isinstance(found[1], asyncio.CancelledError)
        assert top_logprobs.counters["paths"]["/api/chat"] == 1 + 2


def test_the_limit_can_be_changed_at_any_time():
    """Raised while calls wait, it lets them go; what is no such number is refused."""
    with server(Rule(answer="a", first_ms=250), slots=4) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)

        async def main():
            calls = [asyncio.create_task(manager.generate("hi")) for _ in range(3)]
            await until(lambda: top_logprobs.counters["in_flight"])
            manager.parallel = 3
            await asyncio.gather(*calls)

        on_loop(main())
        assert top_logprobs.counters["peak_in_flight"] == 3
        for wrong in (0, -1, 257, 1.5, True, "2"):
            with pytest.raises(errors.InputError):
                manager.parallel = wrong
        assert manager.parallel == 3


# Trying again -------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again():
    """Three tries in all; the answer tells how many it took."""
    with server(Rule(times=2, status=503, error="server busy, please try again.")) as top_logprobs:
        answer = LLMManager.initialize_sync(url=top_logprobs.url).generate_sync("hi")
        assert answer.timing.attempts == 3
        assert top_logprobs.counters["paths"]["/api/chat"] == 1 + 3


def test_tries_end():
    """
    After the last one the server's own refusal is raised; none after the first where none are
    allowed.
    """
    with server(Rule(status=503, error="server busy, please try again.")) as top_logprobs:
        for tries, flags in ((3, {}), (1, {"max_retries": 0})):
            manager = LLMManager.initialize_sync(url=top_logprobs.url, **flags)
            before = top_logprobs.counters["paths"]["/api/chat"]
            with pytest.raises(errors.ServerBusy):
                manager.generate_sync("hi")
            assert top_logprobs.counters["paths"]["/api/chat"] == before + tries


CRASH = "llama-server process has terminated: exit status 1: boom"


@pytest.mark.parametrize(
    ("rule", "error", "tries"),
    [
        ({"status": 500, "error": CRASH}, errors.RunnerCrashed, 2),
        ({"status": 500, "error": "something"}, errors.ServerInternalError, 2),
        ({"status": 400, "error": "no"}, errors.BadRequest, 1),
        ({"answer": "one two", "ends": "reset"}, errors.StreamInterrupted, 1),
        ({"answer": "one two", "ends": "cut"}, errors.AnswerIncomplete, 1),
        ({"answer": "one two", "ends": "error", "error": CRASH}, errors.RunnerCrashed, 1),
    ],
    ids=["crashes twice", "fault", "refusal", "broken", "cut", "crash after words"],
)
def test_what_is_not_worth_another_try(rule, error, tries, monkeypatch):
    """
    A crash or another fault gets one more; a refusal none; and after the first word nothing is ever
    asked again.
    """
    monkeypatch.setattr(resilience, "RUNNER_WAIT_S", 0.0)
    with server(Rule(**rule)) as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, max_retries=4)
        with pytest.raises(error):
            manager.generate_sync("hi")
        assert top_logprobs.counters["paths"]["/api/chat"] == 1 + tries
        assert len(manager.calls) == 0


@pytest.mark.slow
def test_a_crash_of_our_server_costs_the_next_call_nothing_but_time():
    """The server is killed while idle: the next call starts it again, warm, and is answered."""
    manager = scripted()
    first = manager.pid
    os.kill(first, signal.SIGKILL)
    assert "SCRIPTED" in manager.generate_sync("hi")
    assert manager.pid != first
    assert alive(manager.pid)
    assert manager.is_managed


def test_a_server_of_others_that_is_gone_is_not_started():
    """It was theirs: the error says what to do, and no process of ours takes its place."""
    before = children()
    with server() as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, max_retries=1)
    with pytest.raises(errors.ServerNotRunning, match="nothing answers"):
        manager.generate_sync("hi")
    assert children() == before


# Interrupts ---------------------------------------------------------------------------------------


def kernel_like(code, *arguments):
    """
    A Python process that runs this, as a kernel runs a cell: its own group, SIGINT for an
    interrupt.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


INTERRUPTED = """
    import sys, time
    from urisk_nb.llm.manager import LLMManager
    manager = LLMManager.initialize_sync(url=sys.argv[1])
    try:
        {call}
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    print(manager.generate_sync("next"), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        'manager.generate_sync("slow")',
        '"".join(manager.stream_sync("slow"))',
        'manager.generate_sync("late")',
    ],
    ids=["whole", "stream", "before"],
)
def test_an_interrupt_is_felt_at_once_here_and_on_the_server(call):
    """
    KeyboardInterrupt within a quarter of a second, the generation aborted, and the next call
    answered.
    """
    with server(SLOW, Rule(contains="late", first_ms=60_000), Rule(answer="fine")) as top_logprobs:
        with kernel_like(INTERRUPTED.format(call=call), top_logprobs.url) as kernel:
            eventually(lambda: top_logprobs.counters["in_flight"] == 1, 15)
            sent = time.monotonic()
            os.killpg(kernel.pid, signal.SIGINT)
            assert float(kernel.stdout.readline()) - sent < SECONDS_TO_PROMPT
            assert kernel.stdout.readline() == "fine\n"
            assert kernel.wait(5) == 0
        assert top_logprobs.counters["aborted"] == 1


@pytest.mark.slow
def test_an_interrupt_of_the_start_leaves_nothing():
    """
    Interrupted while the model loads: the prompt is back at once and the server hears no more of
    it.
    """
    code = """
        import sys, time
        from urisk_nb.llm.manager import LLMManager
        from urisk_nb.errors import NotInitialized
        try:
            LLMManager.initialize_sync(url=sys.argv[1])
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        try:
            LLMManager.get_instance()
        except NotInitialized:
            print("none", flush=True)
    """
    with server(load_ms=60_000) as top_logprobs:
        with kernel_like(code, top_logprobs.url) as kernel:
            eventually(lambda: top_logprobs.counters["paths"].get("/api/chat"), 15)
            sent = time.monotonic()
            os.killpg(kernel.pid, signal.SIGINT)
            assert float(kernel.stdout.readline()) - sent < SECONDS_TO_PROMPT
            assert kernel.stdout.readline() == "none\n"
            assert kernel.wait(5) == 0
        eventually(lambda: top_logprobs.counters["connections_open"] == 0)


# Shutdown -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_shutdown_ends_our_server_and_a_second_changes_nothing():
    """
    Our server is gone, a second shutdown changes nothing, calls say so, and a new start works.
    """
    before, url = children(), free_url()
    manager = scripted(url=url)
    began = time.monotonic()
    manager.shutdown_sync()
    assert time.monotonic() - began < 1
    assert children() == before
    assert answers(url) is None
    manager.shutdown_sync()
    asyncio.run(manager.shutdown())
    assert repr(manager) == "<LLMManager closed>"
    with pytest.raises(errors.NotInitialized, match="shut down"):
        manager.generate_sync("hi")
    with pytest.raises(errors.NotInitialized):
        LLMManager.get_instance()
    assert scripted(url=url).generate_sync("hi")


def test_calls_in_flight_end_with_the_session():
    """
    One that is answered and one that waits both end soon with ServerConnectionLost, not with a hang
    or a bare cancel.
    """
    manager = scripted(load_timeout_s=600)
    with server(SLOW) as top_logprobs, ThreadPoolExecutor(2) as pool:
        manager = LLMManager.initialize_sync(url=top_logprobs.url, engine="auto")
        calls = [pool.submit(manager.generate_sync, "slow") for _ in range(2)]
        eventually(lambda: top_logprobs.counters["in_flight"] == 1 and len(manager._in_flight) == 2)
        began = time.monotonic()
        manager.shutdown_sync()
        for call in calls:
            with pytest.raises(errors.ServerConnectionLost, match="shut down during the call"):
                call.result(5)
        assert time.monotonic() - began < 1
        eventually(lambda: top_logprobs.counters["in_flight"] == 0)
        assert top_logprobs.counters["paths"]["/api/chat"] == 1 + 1


def test_a_server_of_others_goes_on_with_its_model():
    """What was adopted is neither stopped nor emptied."""
    with server() as top_logprobs:
        manager = LLMManager.initialize_sync(url=top_logprobs.url)
        manager.shutdown_sync()
        with urllib.request.urlopen(f"{top_logprobs.url}/api/ps", timeout=5) as reply:
            assert [model["name"] for model in json.load(reply)["models"]] == ["llama3.1:latest"]
        eventually(lambda: top_logprobs.counters["connections_open"] == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(4)", 4), ("raise LookupError", 1)],
    ids=["end", "exit", "exception"],
)
def test_the_end_of_the_interpreter_stops_our_server(end, code):
    """
    However the process ends in order, its server is gone within a second, even with a call in
    flight.
    """
    program = f"""
        import sys, threading
        from urisk_nb.llm.manager import LLMManager
        sys.stderr = open("/dev/null", "w")
        manager = LLMManager.initialize_sync(engine="ollama", url=sys.argv[1])
        print(manager.pid, flush=True)
        sys.stdin.readline()
        {end}
    """
    OllamaProgram(os.environ["PATH"])
    with kernel_like(program, free_url()) as kernel:
        pid = int(kernel.stdout.readline())
        assert alive(pid)
        began = time.monotonic()
        kernel.communicate("\n", timeout=10)
        assert kernel.returncode == code
        assert time.monotonic() - began < 1.5
    assert not alive(pid)


@pytest.mark.slow
@pytest.mark.row(18)
def test_a_fork_neither_uses_nor_stops_what_is_its_parents():
    """
    The child's calls are refused at once, it finds no session of its own, and its orderly end
    leaves the server alone.
    """
    code = """
        import os, sys
        from urisk_nb.errors import ForkedError, NotInitialized
        from urisk_nb.llm.manager import LLMManager
        manager = LLMManager.initialize_sync(engine="ollama", url=sys.argv[1])
        pid = manager.pid
        child = os.fork()
        if not child:
            seen = []
            ways = [lambda: manager.generate_sync("hi"), lambda: list(manager.stream_sync("hi"))]
            for attempt in (*ways, LLMManager.get_instance):
                try:
                    attempt()
                except (ForkedError, NotInitialized) as exc:
                    seen.append(type(exc).__name__)
            manager.shutdown_sync()
            print(*seen, flush=True)
            del manager
            import gc
            gc.collect()
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        answered = "SCRIPTED" in manager.generate_sync("hi")
        print(os.waitstatus_to_exitcode(status), answered, manager.pid == pid, flush=True)
        import signal, time
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 5
        while manager.restart_count == 0 and time.monotonic() < end:
            time.sleep(0.01)
        print(manager.restart_count, "SCRIPTED" in manager.generate_sync("hi"), flush=True)
    """
    OllamaProgram(os.environ["PATH"])
    with kernel_like(code, free_url()) as kernel:
        out, _ = kernel.communicate(timeout=30)
    assert out.splitlines() == [
        "ForkedError ForkedError NotInitialized",
        "0 True True",
        "1 True",
    ], "the parent still hears of its server"
    assert kernel.returncode == 0


@pytest.mark.slow
def test_starting_and_stopping_leaves_no_handles():
    """Open files and threads are the same after the tenth cycle as after the second."""

    def handles():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    seen = []
    with server(Rule(answer=["ok"])) as top_logprobs:
        for _ in range(10):
            manager = LLMManager.initialize_sync(url=top_logprobs.url)
            manager.generate_sync("hi")
            manager.shutdown_sync()
            eventually(lambda: top_logprobs.counters["connections_open"] == 0)
            seen.append(handles())
    assert seen[-1] == seen[1]
