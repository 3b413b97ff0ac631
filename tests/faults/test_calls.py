"""
The fault matrix, as calls meet it: a server that fails, is busy or has lost its model, and many
calls and sessions at once.

A manager of this process over real processes of the scripted server's program; what they answer is
SCRIPTED.
"""

import asyncio
import os
import resource
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fake_ollama import Rule
from fake_ollama_env import gone
from fault_calls import scripted, session
from harness import eventually
from urisk_nb import errors, event_loop
from urisk_nb.llm.manager import LLMManager

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


# Calls that fail ----------------------------------------------------------------------------------


@pytest.mark.row(37)
def test_a_full_queue_is_waited_for(lab):
    """Three refusals of a busy server, then the answer; the breaker has not moved."""
    with scripted(
        Rule(
            times=3,
            status=503,
            error="server busy, please try again.  maximum pending requests exceeded",
        )
    ) as busy:
        manager = session(url=busy.url, max_retries=3)
        assert manager.generate_sync("hi").timing.attempts == 4
        assert manager.breaker() == "closed"
        assert manager.lead.retrying.breakers[manager.model].failures == 0


@pytest.mark.row(38)
def test_a_server_that_fails_is_left_alone_and_tried_by_one(lab):
    """
    Five failures open it; ten that come after the pause are one trial and nine refusals; its
    success lets everybody in.
    """
    with scripted(
        Rule(times=10, status=500, error="boom"), Rule(answer="ok", first_ms=300)
    ) as failing:
        manager = session(url=failing.url, max_retries=1)
        for _ in range(5):
            with pytest.raises(errors.ServerInternalError):
                manager.generate_sync("hi")
        with pytest.raises(errors.CircuitOpen, match="boom"):
            manager.generate_sync("hi")
        asked_so_far = failing.counters["paths"]["/api/chat"]
        breaker = manager.lead.retrying.breakers[manager.model]
        breaker.opened_at -= breaker.pause_s  # the pause is over
        with ThreadPoolExecutor(10) as pool:
            manager.parallel = 10
            results = [
                future.exception() or future.result()
                for future in [pool.submit(manager.generate_sync, "hi") for _ in range(10)]
            ]
        assert sum(result == "ok" for result in results) == 1
        assert sum(isinstance(result, errors.CircuitOpen) for result in results) == 9
        assert failing.counters["paths"]["/api/chat"] == asked_so_far + 1
        assert manager.breaker() == "closed"
        assert manager.generate_sync("hi") == "ok"


@pytest.mark.row(40)
def test_a_model_that_has_gone_is_pulled_and_asked_once_more(lab):
    """Somebody removed it between two calls."""
    with scripted(Rule(answer="ok"), models=["llama3.1", "other"]) as others_server:
        manager = session(url=others_server.url)
        assert manager.generate_sync("hi") == "ok"
        delete = urllib.request.Request(
            f"{others_server.url}/api/delete", data=b'{"model":"llama3.1"}', method="DELETE"
        )
        urllib.request.urlopen(delete, timeout=5).close()
        assert manager.generate_sync("hi") == "ok"
        assert others_server.counters["paths"]["/api/pull"] == 1


PART = {
    "status": "pulling 1a2b3c4d5e6f",
    "digest": "sha256:1a2b3c4d5e6f",
    "total": 1000,
    "completed": 600,
}


@pytest.mark.row(41)
@pytest.mark.parametrize(
    ("error", "kind", "fix"),
    [
        (
            "write /models/blobs/sha256-x-partial: no space left on device",
            errors.DiskFull,
            "free some space",
        ),
        ("max retries exceeded: unexpected EOF", errors.PullFailed, "what has arrived is kept"),
        ("pull model manifest: 412: newer", errors.ServerTooOld, "update Ollama"),
        (None, errors.PullFailed, "what has arrived is kept"),
    ],
)
def test_a_pull_that_dies_is_told_and_can_be_tried_again(error, kind, fix, lab):
    """At 60 %: each cause has its own way out, and the session that was there goes on."""
    lines = [{"status": "pulling manifest"}, PART, *([{"error": error}] if error else [])]
    with scripted(Rule(answer="ok"), models=["llama3.1"], pulls={"big:latest": lines}) as pulling:
        manager = session(url=pulling.url)
        with pytest.raises(kind) as caught:
            session(model="big")
        assert fix in caught.value.fix
        assert manager.generate_sync("hi") == "ok"


@pytest.mark.row(5)
def test_a_pull_that_was_interrupted_goes_on(lab):
    """What had arrived is not fetched again: the second pull begins where the first was left."""
    seen = []
    with scripted(
        Rule(answer="ok"), models=["llama3.1", {"name": "big", "installed": False}], pull_ms=60
    ) as pulling:
        session(url=pulling.url)
        call = event_loop.submit(LLMManager.initialize(model="big", progress=seen.append))
        eventually(lambda: len({event.done for event in seen}) > 3, 10)
        call.cancel()
        assert call.done.wait(10)
        reached = max(event.done for event in seen)
        again = []
        session(model="big", progress=again.append)
        first = next(event.done for event in again if event.done)
        assert first >= reached > min(event.done for event in seen if event.done)


OOM = {
    "model requires more system memory (9.3 GiB) than is available (4.1 GiB)": errors.ModelTooLarge,
    "llama-server process has terminated: error: cudaMalloc failed: out of "
    "memory": errors.OutOfMemory,
}


@pytest.mark.parametrize("text", OOM)
def test_a_lack_of_memory_is_not_tried_again(text, lab):
    """A smaller model is the way out, for the load and for a call; the breaker is not concerned."""
    with scripted(load_error=text) as small, pytest.raises(OOM[text], match="memory") as caught:
        session(url=small.url)
    assert "smaller" in caught.value.fix
    with scripted(Rule(status=500, error=text)) as small:
        manager = session(url=small.url)
        with pytest.raises(OOM[text]):
            manager.generate_sync("hi")
        assert small.counters["paths"]["/api/chat"] == 2
        assert manager.lead.retrying.breakers[manager.model].failures == 0


# Many calls, many sessions ------------------------------------------------------------------------


def test_two_hundred_at_once_wait_in_order_and_all_succeed(lab, figure):
    """
    From threads and from loops at the same time, over one slot: none lost, none refused, breaker
    closed.
    """
    lab.plan(rules=[{"answer": "ok", "first_ms": 2}])
    manager = session()

    async def hundred():
        return await asyncio.gather(*(manager.generate("hi") for _ in range(100)))

    began = time.monotonic()
    with ThreadPoolExecutor(51) as pool:
        loop = pool.submit(asyncio.run, hundred())
        threads = [
            pool.submit(lambda: [manager.generate_sync("hi") for _ in range(2)]) for _ in range(50)
        ]
        answers = [
            *loop.result(60),
            *(answer for future in threads for answer in future.result(60)),
        ]
    figure("200 calls over one slot of 2 ms", time.monotonic() - began)
    assert answers == ["ok"] * 200
    assert lab.counters()["peak_in_flight"] == 1
    assert (manager.breaker(), manager.restart_count) == ("closed", 0)


def test_a_server_killed_under_two_hundred_calls(lab):
    """One call is cut off at most; the others wait for the server to be back, and are answered."""
    lab.plan(rules=[{"answer": "ok ok ok", "first_ms": 3, "token_ms": 1}])
    manager = session()

    async def all_of_them():
        return await asyncio.gather(
            *(manager.generate("hi") for _ in range(200)), return_exceptions=True
        )

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(asyncio.run, all_of_them())
        eventually(lambda: len(manager.calls) > 20, 10)
        os.kill(manager.pid, signal.SIGKILL)
        results = calls.result(60)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert len(failed) <= 1, failed
    assert all(isinstance(error, errors.StreamInterrupted) for error in failed)
    assert (manager.restart_count, manager.breaker()) == (1, "closed")


@pytest.mark.timing
@pytest.mark.row(47)
def test_a_shutdown_under_calls_and_under_another_shutdown(lab):
    """The calls end with ServerConnectionLost, both shutdowns end, and the server with them."""
    manager = session()
    pids = lab.processes()

    async def main():
        calls = [asyncio.create_task(manager.generate("slow")) for _ in range(3)]
        while lab.counters()["in_flight"] < 1:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await asyncio.gather(manager.shutdown(), manager.shutdown())
        return time.monotonic() - began, await asyncio.gather(*calls, return_exceptions=True)

    took_s, results = asyncio.run(main())
    assert took_s < 1
    assert all(isinstance(result, errors.ServerConnectionLost) for result in results)
    gone(pids, 0.5)
    manager.shutdown_sync()
    with pytest.raises(errors.NotInitialized):
        LLMManager.get_instance()


def held():
    """Open files and threads of this process, and its memory in MB."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return files, threading.active_count(), pages * resource.getpagesize() / 2**20


@pytest.mark.row(46)
@pytest.mark.timeout(300)
def test_two_hundred_sessions_leave_nothing(lab, figure):
    """
    Start, ask, stop, two hundred times: files, threads and memory are as they were, and Python
    warns of nothing unclosed.
    """
    lab.plan(rules=[{"answer": "ok"}])
    began, seen = time.monotonic(), []
    for _ in range(200):
        manager = session()
        assert manager.generate_sync("hi") == "ok"
        manager.shutdown_sync()
        seen.append(held())
    figure("one cycle of start, ask, stop", (time.monotonic() - began) / 200)
    (files, threads, before), (files_after, threads_after, after) = seen[20], seen[-1]
    assert (files, threads) == (files_after, threads_after)
    figure("growth over 180 cycles, MB", after - before)
    assert after - before < 8
