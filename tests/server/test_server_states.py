"""
What a user does to a server by hand: unload a model, start the server again, see what it holds.
"""

import asyncio
import json
import os
import signal
import time
import urllib.request
from types import SimpleNamespace

import psutil
import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import OllamaProgram, alive, eventually, free_port
from urisk_nb import errors, event_loop, process_state
from urisk_nb.llm.manager import LLMManager
from urisk_nb.server import model_server, port
from urisk_nb.server.memory_usage import measure_memory
from urisk_nb.settings import Settings

pytestmark = pytest.mark.slow
SCENARIO = {
    "version": "0.33.0",
    "models": ["llama3.1"],
    "rules": [{"contains": "slow", "answer": "word " * 400, "token_ms": 5}],
}


@pytest.fixture
def manager(own_places, tmp_path):
    """A manager over an `ollama` of its own: a process with a runner below it."""
    with OllamaProgram(tmp_path / "bin", SCENARIO):
        made = LLMManager.initialize_sync(url=f"http://127.0.0.1:{free_port()}")
        yield made
        if (left := process_state.get("manager")) is not None:
            left.shutdown_sync()


def counters(manager):
    with urllib.request.urlopen(f"{manager.url}/urisk/counters", timeout=5) as reply:
        return json.load(reply)


def names(manager):
    return [model.name for model in event_loop.run(manager.loaded_models())]


def test_a_restart_by_hand(manager):
    """
    Another process, warm; the old one and its runner are gone; it is no sign of trouble, so none of
    the restarts is used up.
    """
    old = [manager.pid, *counters(manager)["runners"]]
    for _ in range(4):  # one more than a server that ends by itself is started again
        event_loop.run(manager.restart())
    assert manager.pid not in old
    assert not any(map(alive, old))
    assert names(manager) == ["llama3.1:latest"]
    assert (manager.restart_count, manager.breaker(), str(manager.state)) == (
        0,
        "closed",
        "managed",
    )
    assert manager.generate_sync("hi")


def test_a_restart_cuts_off_answers_and_keeps_calls_that_wait(manager):
    """
    The answer that is being given ends with its partial text; the call behind it is answered by the
    new server.
    """
    cut, kept = (event_loop.submit(manager.stream(prompt).whole()) for prompt in ("slow", "next"))
    eventually(
        lambda: [record.phase for record in manager.calls.live] == ["answering", "queued locally"]
    )
    event_loop.run(manager.restart())
    # The runner may end a moment before the server, which then still says so.
    with pytest.raises((errors.StreamInterrupted, errors.RunnerCrashed)) as seen:
        cut.wait()
    assert manager.calls.records[0].answer.startswith("word")
    assert seen.value.fix
    assert kept.wait()


def test_many_answers_that_a_restart_cuts_off_speak_against_nobody(manager, tmp_path):
    """Eight streams are cut off, and all twenty calls that wait are answered: no breaker opens."""
    manager.shutdown_sync()
    (tmp_path / "bin" / "scenario.json").write_text(json.dumps({**SCENARIO, "slots": 8}))
    manager = LLMManager.initialize_sync(url=manager.url, parallel=8)
    cut = [event_loop.submit(manager.stream("slow").whole()) for _ in range(8)]
    eventually(lambda: sum(record.phase == "answering" for record in manager.calls.live) == 8)
    kept = [event_loop.submit(manager.stream("next").whole()) for _ in range(20)]
    event_loop.run(manager.restart())
    assert all(call.wait() for call in kept)
    for call in cut:
        with pytest.raises((errors.StreamInterrupted, errors.RunnerCrashed)):
            call.wait()
    assert manager.calls.outcomes["ok"] == 20
    assert set(manager.calls.outcomes) <= {"ok", "StreamInterrupted", "RunnerCrashed"}
    assert manager.breaker() == "closed"


def test_a_restart_lets_calls_through_again(manager):
    """A breaker that has opened speaks of the server that was."""
    for _ in range(5):
        manager.lead.retrying.breakers[manager.model].record_failure(
            errors.ServerConnectionLost("gone.", fix="ask"), time.monotonic(), trial=False
        )
    assert manager.breaker() == "open"
    event_loop.run(manager.restart())
    assert manager.generate_sync("hi")


def test_a_wait_for_a_server_that_comes_back_is_part_of_the_call(manager):
    """It is killed while idle; the call that meets it waits, and says so in its timing."""
    manager.server.restart_policy.pauses_s = (1.0, 1.0)
    os.kill(manager.pid, signal.SIGKILL)
    eventually(lambda: str(manager.state) == "crashed")
    call = event_loop.submit(manager.stream("hi").whole())
    eventually(
        lambda: [record.phase for record in manager.calls.live] == ["waiting for the server"]
    )
    timing = call.wait().timing
    assert timing.wait_s > 0.4
    assert timing.elapsed_s == pytest.approx(timing.wait_s + timing.total_s)


def test_a_restart_that_may_start_nothing_is_refused(manager):
    """OLLAMA_AUTO_START is off: the server goes on."""
    pid = manager.pid
    manager.server.settings = manager.settings.model_copy(update={"auto_start": False})
    with pytest.raises(errors.ServerNotManaged, match="OLLAMA_AUTO_START is off"):
        event_loop.run(manager.restart())
    assert alive(pid)


def test_a_server_of_others_is_not_started_again(own_places):
    """It says whose affair that is, and the server goes on."""
    with running(ScriptedBackend(Scenario())) as others:
        manager = LLMManager.initialize_sync(url=others.url)
        with pytest.raises(errors.ServerNotManaged, match="not started here") as seen:
            event_loop.run(manager.restart())
        assert "restart Ollama itself" in seen.value.fix
        assert manager.generate_sync("hi")
        manager.shutdown_sync()


def test_a_restart_that_fails_says_why(manager, tmp_path):
    """
    The program has gone meanwhile: an error with a way out, and the manager says that it failed.
    """
    (tmp_path / "bin" / "ollama").write_text("#!/bin/sh\nexit 3\n")
    manager.server.restart_policy.pauses_s = (0.01,)
    with pytest.raises(errors.ServerStartFailed, match="exit code 3"):
        event_loop.run(manager.restart())
    assert str(manager.state) == "failed"
    assert manager.server.failure is not None


def test_unloading_by_hand(manager):
    """
    Nothing is in memory, the runner is gone; the next call loads it again, and says how long that
    took.
    """
    runner = counters(manager)["runners"][0]
    event_loop.run(manager.unload())
    eventually(lambda: names(manager) == [] and not alive(runner))
    assert manager.generate_sync("hi")
    assert names(manager) == ["llama3.1:latest"]
    assert counters(manager)["loads"] == 2


def test_an_unload_waits_for_the_answer_under_way():
    """The server finishes what it has begun."""
    slow = Rule(contains="slow", answer=["a "] * 20, token_ms=20)
    with running(ScriptedBackend(Scenario(rules=[slow]))) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        call = event_loop.submit(manager.stream("slow").whole())
        eventually(lambda: [record.phase for record in manager.calls.live] == ["answering"])
        event_loop.run(manager.unload())
        assert call.wait() == "a " * 20
        manager.shutdown_sync()


@pytest.mark.parametrize("act", ["unload", "restart", "loaded_models"])
def test_nothing_is_done_after_the_end(manager, act):
    """The error says how to begin again."""
    manager.shutdown_sync()
    with pytest.raises(errors.NotInitialized):
        event_loop.run(getattr(manager, act)())


def test_what_a_server_holds(manager):
    """
    Resident memory of the server and of its runner, as the system says, and since when it runs.
    """
    server = psutil.Process(manager.pid)
    processes = (server, server.children()[0])
    before = [each.memory_info().rss for each in processes]
    seen = measure_memory(manager.pid)
    after = [each.memory_info().rss for each in processes]
    assert (seen.pid, seen.runners) == (manager.pid, 1)
    for held, low, high in zip((seen.server_bytes, seen.runner_bytes), before, after, strict=True):
        # What has only just started still grows between two looks
        assert 0.8 * low <= held <= 1.2 * high
    assert seen.started_at.timestamp() == pytest.approx(server.create_time(), abs=0.1)


def test_nobody_holds_nothing():
    """A process that has ended is none."""
    assert measure_memory(2**22 + 1) is None


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="only Linux tells who listens")
def test_who_listens(manager):
    """
    The server's own process, not its guardian and not its runner; nobody at a port that is free.
    """
    assert port.listener(manager.settings.port) == manager.pid
    assert port.listener(free_port()) is None


class LoadingClient:
    """Says so many times that the server loads its model, as llama.cpp does; then its version."""

    def __init__(self, times):
        self.left = times

    async def probe(self, within_s=None):
        self.left -= 1
        if self.left >= 0:
            raise errors.ServerBusy("the server is loading its model.", fix="wait")
        return "b1"


@pytest.mark.parametrize(("patience_s", "is_ready"), [(60, True), (0.2, False)])
def test_a_server_that_loads_its_model_is_waited_for(monkeypatch, patience_s, is_ready):
    """The time for a load is URISK_LOAD_TIMEOUT, not the time that a server has to answer."""
    monkeypatch.setattr(model_server.port, "listens", lambda *_: True)
    said, hangs = [], []

    async def main():
        async def report_hang(within_s):
            hangs.append(within_s)

        lease = SimpleNamespace(
            ended=asyncio.Event(), server_pid=1, facts={"log": ""}, report_hang=report_hang
        )
        given = Settings(load_timeout_s=patience_s)
        client = LoadingClient(8)
        server = model_server.Server(given, client, lambda *step: said.append(step), None)
        return await server._wait_until_ready(lease, 0.05)

    if is_ready:
        assert asyncio.run(main()) == "b1"
        assert not hangs
    else:
        with pytest.raises(errors.ServerStartFailed, match="not ready after 0 s"):
            asyncio.run(main())
        assert hangs
    assert [step for step, _ in said] == ["loading"]
