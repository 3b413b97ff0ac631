"""The fault matrix, as a server meets it: killed, stopped, hung, replaced, ending again and again;
what its user sees of that.

A manager of this process over real processes of the fake Ollama; what they answer is
SCRIPTED.
"""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from fake_ollama_env import SLOW, gone
from harness import eventually
from urisk_nb import errors, event_loop, process_state
from urisk_nb.llm.manager import LLMManager
from urisk_nb.server import leases, runtime_dir
from urisk_nb.server import model_server as server_module
from urisk_nb.server.liveness import ProbeSchedule
from urisk_nb.server.model_server import ServerState
from urisk_nb.server.restart_policy import RestartPolicy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
LATER = {"contains": "later", "answer": "SCRIPTED later", "first_ms": 400}


def session(**flags):
    return LLMManager.initialize_sync(**flags)


@contextlib.contextmanager
def asked(manager, prompt):
    """A call under way in a thread: its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(manager.generate_sync, prompt)


def in_flight(lab, number=1):
    eventually(lambda: lab.counters()["in_flight"] == number)


# Our server ends ----------------------------------------------------------------------------------


@pytest.mark.row(21)
def test_an_idle_server_that_is_killed_is_back_before_the_next_call(lab, figure):
    """
    It is told at once, its runner is gone, it is started once, and warm: the next call only takes
    longer.
    """
    manager = session()
    server, runner = lab.processes()
    os.kill(server, signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: manager.state is not ServerState.MANAGED, 1)
    figure("end of an idle server noticed", time.monotonic() - began)
    assert time.monotonic() - began < 0.5
    gone([runner])
    assert "SCRIPTED" in manager.generate_sync("hi")
    figure("from the kill to the next answer", time.monotonic() - began)
    assert (manager.state, manager.restart_count) == (ServerState.MANAGED, 1)
    assert lab.counters()["loads"] == 1, "warmed before the call"
    assert lab.counters()["paths"]["/api/chat"] == 2


@pytest.mark.row(21)
def test_an_idle_server_is_started_again_by_itself(lab):
    """Nobody has to ask for it."""
    manager = session()
    first = manager.pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: manager.state is ServerState.MANAGED and manager.pid != first, 10)
    eventually(lambda: lab.counters()["loads"] == 1, 10)


@pytest.mark.row(22)
def test_a_server_killed_before_the_first_token_costs_a_try(lab):
    """The caller sees nothing of it but the number of tries."""
    lab.plan(rules=[LATER])
    manager = session()
    with asked(manager, "later") as call:
        in_flight(lab)
        os.kill(manager.pid, signal.SIGKILL)
        answer = call.result(30)
    assert (answer, answer.timing.attempts) == ("SCRIPTED later", 2)
    assert manager.breaker() == "closed"


@pytest.mark.row(23)
def test_a_server_killed_in_a_stream_is_told_with_the_text(lab):
    """Never asked again by itself: what was said is on the error."""
    manager = session()
    seen = []

    def read():
        for piece in manager.stream_sync("slow"):
            seen.append(piece)
            if len(seen) == 20:
                os.kill(manager.pid, signal.SIGKILL)

    with pytest.raises(errors.StreamInterrupted) as caught:
        read()
    assert caught.value.partial == "".join(seen)
    assert len(seen) >= 20
    assert "SCRIPTED" in manager.generate_sync("hi")


@pytest.mark.row(24)
@pytest.mark.parametrize("when", ["idle", "before the first token", "in a stream"])
def test_a_runner_that_is_killed(when, lab):
    """
    The server lives and loads again: idle or before the first token costs nothing but time, in a
    stream it is told.
    """
    lab.plan(rules=[LATER, SLOW])
    manager = session()
    server, runner = lab.processes()
    with asked(
        manager, {"idle": "hi", "before the first token": "later", "in a stream": "slow"}[when]
    ) as call:
        if when != "idle":
            in_flight(lab)
        else:
            call.result(10)
        if when == "in a stream":
            # Some text is there by now; the answer's first piece comes at once
            threading.Event().wait(0.2)
        os.kill(runner, signal.SIGKILL)
        gone([runner])
        if when == "in a stream":
            with pytest.raises(errors.RunnerCrashed) as caught:
                call.result(20)
            assert "word" in caught.value.facts["partial"]
        elif when == "before the first token":
            assert call.result(20).timing.attempts == 2
    assert "SCRIPTED" in manager.generate_sync("hi")
    assert lab.processes()[0] == server
    assert lab.processes()[1] != runner


SHORT = ProbeSchedule(silent_s=0.5, every_s=0.2, within_s=0.3, strikes=3)


@pytest.mark.row(25)
def test_a_server_of_ours_that_hangs_is_started_again(lab, figure):
    """
    A stopped process takes connections and says nothing: three probes in vain, then the guardian's,
    then it is ended.
    """
    lab.plan(rules=[LATER])
    manager = session()
    manager._server.monitor.schedule = SHORT
    server, runner = lab.processes()
    with asked(manager, "later") as call:
        in_flight(lab)
        os.kill(server, signal.SIGSTOP)
        began = time.monotonic()
        answer = call.result(60)
    figure(
        "from the hang to the answer, probes every 0.2 s after 0.5 s (10 s and 5 s in use)",
        time.monotonic() - began,
    )
    assert (answer, answer.timing.attempts) == ("SCRIPTED later", 2)
    gone([server, runner])
    assert manager.restart_count == 1


@pytest.mark.row(25)
def test_a_server_of_others_that_hangs_is_an_error(lab):
    """It is not ours to stop: the calls end with what to do."""
    with others(lab) as server:
        manager = session(max_retries=0)
        assert manager.state is ServerState.EXTERNAL
        manager._server.monitor.schedule = SHORT
        with asked(manager, "slow") as call:
            in_flight(lab)
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(
                (errors.ServerHung, errors.StreamInterrupted), match="not even said its version"
            ):
                call.result(30)
        os.kill(server.pid, signal.SIGCONT)
        assert "SCRIPTED" in manager.generate_sync("hi")
        assert server.poll() is None


def test_a_slow_server_is_no_hung_one(lab):
    """It answers the probes: the call waits as long as the limits allow."""
    lab.plan(rules=[{"contains": "later", "answer": "SCRIPTED later", "first_ms": 3000}])
    manager = session()
    manager._server.monitor.schedule = SHORT
    answer = manager.generate_sync("later")
    assert (answer.timing.attempts, manager.restart_count) == (1, 0)
    assert lab.counters()["paths"]["/api/version"] >= 5, "it was looked at"


@contextlib.contextmanager
def others(lab):
    """A server that somebody else runs at the address."""
    env = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{lab.port}"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [str(lab.program.path), "serve"], env=env, **quiet, start_new_session=True
    ) as started:
        try:
            eventually(lab.answers, 10)
            yield started
        finally:
            started.send_signal(signal.SIGCONT)
            started.terminate()


@pytest.mark.row(33)
def test_a_server_that_takes_the_port_over_is_adopted(lab):
    """
    As Ollama's desktop app does: ours is ended and another one answers. It is used, not fought.
    """
    manager = session()
    os.kill(manager.pid, signal.SIGKILL)
    with others(lab) as taker:
        assert "SCRIPTED" in manager.generate_sync("hi")
        assert (manager.state, manager.is_managed) == (ServerState.EXTERNAL, False)
        manager.shutdown_sync()
        assert taker.poll() is None
        assert lab.answers()


@pytest.mark.row(36)
def test_a_server_that_ends_again_and_again_is_given_up(lab, monkeypatch):
    """Three starts, then an error with the last words; %urisk_start begins anew."""
    monkeypatch.setattr(
        server_module, "RestartPolicy", lambda: RestartPolicy(pauses_s=(0.05, 0.1, 0.2))
    )
    lab.plan(process={"exit_after_ms": 200, "last_words": "panic: SCRIPTED", "exit_code": 2})
    manager = session()
    eventually(lambda: manager.state is ServerState.FAILED, 20)
    with pytest.raises(
        errors.ServerCrashLoop, match=r"3 times in 5 minutes.*panic: SCRIPTED"
    ) as caught:
        manager.generate_sync("hi")
    assert "%urisk_start" in caught.value.fix
    assert manager.restart_count <= 3
    lab.plan()
    assert "SCRIPTED" in session().generate_sync("hi")


@pytest.mark.row(35)
def test_no_storm_of_starts_where_none_can_succeed(lab):
    """A program that ends at once is started once; its own words are in the error."""
    log = lab.folder / "starts"
    lab.plan(process={"refuse": "Error: SCRIPTED refusal"})
    lab.program.path.write_text(
        lab.program.path.read_text().replace(
            "import os, sys", f"import os, sys\nopen({str(log)!r}, 'a').write('x')"
        )
    )
    with pytest.raises(errors.ServerStartFailed, match="SCRIPTED refusal"):
        session()
    assert log.read_text() == "x"
    assert not lab.answers()


def test_a_server_that_is_too_old_is_refused(lab):
    """
    Before 0.5 a schema is not kept to: every label would be chance. The server that was started for
    that is given back.
    """
    lab.plan(version="0.4.7")
    with pytest.raises(errors.ServerTooOld, match=r"0\.4\.7") as caught:
        session()
    assert "update" in caught.value.fix
    assert not lab.answers()


def test_a_server_with_other_settings_is_shared_and_said_so(lab, monkeypatch):
    """
    Two kernels want other variables of Ollama at one address: the first one's hold, and the second
    is told.
    """
    first = session()
    held = event_loop.run(leases.join(runtime_dir.folder(first.settings)))
    assert first.notes == ()
    first.shutdown_sync()
    assert session().notes == ()
    LLMManager.get_instance().shutdown_sync()
    monkeypatch.setenv("OLLAMA_FLASH_ATTENTION", "1")
    second = session()
    assert second.origin == "shared"
    assert ["other settings" in note for note in second.notes] == [True]
    second.shutdown_sync()
    event_loop.run(held.leave())


def test_more_calls_than_slots_is_said_so(lab):
    """What waits inside of the server cannot be cancelled: the way to more slots is told."""
    manager = session()
    assert session(parallel=3) is manager
    assert manager.notes[-1].startswith("the server was started with one slot")
    assert "--parallel 3" in manager.notes[-1]


# A start, a stop or a recovery in trouble ---------------------------------------------------------


def test_an_interrupted_stop_is_a_stop(lab):
    """The session is over, its server ends, and the next start is a start."""
    lab.plan(process={"ignore_sigterm": True})
    manager = session()
    pids = lab.processes()
    stopping = event_loop.submit(manager.shutdown())
    eventually(lambda: manager._closed, 5)
    stopping.cancel()
    assert stopping.done.wait(5)
    with pytest.raises(errors.NotInitialized):
        LLMManager.get_instance()
    gone(pids, 2)
    lab.plan()
    assert "SCRIPTED" in session().generate_sync("hi")


def test_a_connection_that_does_not_close_keeps_no_server(lab):
    """Whatever goes wrong on the way, the share is given back."""
    manager = session()
    pids = lab.processes()
    real = manager._client.aclose

    async def fails():
        await real()
        raise OSError("no")

    manager._client.aclose = fails
    manager.shutdown_sync()
    gone(pids)


def test_a_server_that_is_being_stopped_is_not_adopted(lab):
    """It still answers for a moment, but who comes now gets the next one."""
    lab.plan(process={"ignore_sigterm": True})
    first = session()
    old = first.pid
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(first.shutdown_sync)
        eventually(lambda: first._closed and first.state is ServerState.STOPPING, 5)
        assert lab.answers()
        manager = session()
        stopping.result(10)
    assert manager.state is ServerState.MANAGED
    assert manager.pid != old
    assert "SCRIPTED" in manager.generate_sync("hi")


def test_a_recovery_that_meets_a_fault_of_the_system_goes_on(lab, monkeypatch):
    """No process can be made at the first attempt: that costs one of the restarts, and no more."""
    monkeypatch.setattr(
        server_module, "RestartPolicy", lambda: RestartPolicy(pauses_s=(0.05, 0.1, 0.2))
    )
    manager = session()
    failures = iter([OSError(12, "Cannot allocate memory")])
    real = leases.subprocess.Popen

    def popen(*words, **named):
        if failure := next(failures, None):
            raise failure
        return real(*words, **named)

    monkeypatch.setattr(leases.subprocess, "Popen", popen)
    os.kill(manager.pid, signal.SIGKILL)
    eventually(lambda: manager.restart_count == 1 and manager.state is ServerState.MANAGED, 10)
    assert "SCRIPTED" in manager.generate_sync("hi")


@pytest.mark.parametrize(
    "failure", [errors.ServerBusy, errors.ServerTimeout, errors.RunnerCrashed, errors.OutOfMemory]
)
def test_a_warm_up_that_fails_after_a_restart_costs_neither_server_nor_share(failure, lab):
    """The server is up: the next call is asked as ever; and after the shutdown nothing is left."""
    manager = session()
    failures = iter([failure("not now", fix="later")])
    real = manager._client.load

    async def load(body):
        if error := next(failures, None):
            raise error
        await real(body)

    manager._client.load = load
    os.kill(manager.pid, signal.SIGKILL)
    eventually(lambda: manager.restart_count == 1 and manager._server._recovery.done(), 10)
    assert manager.state is ServerState.MANAGED
    assert "SCRIPTED" in manager.generate_sync("hi")
    pids = lab.processes()
    manager.shutdown_sync()
    gone(pids, 0.5)


def test_a_session_does_not_change_its_engine_by_itself(lab, monkeypatch):
    """
    Another engine answers when ours has ended: that is an error, not a silent change of judge.
    """
    monkeypatch.setattr(
        server_module, "RestartPolicy", lambda: RestartPolicy(pauses_s=(0.3, 0.1, 0.2))
    )
    manager = session()
    os.kill(manager.pid, signal.SIGKILL)
    eventually(lambda: not lab.answers(), 5)
    with running(ScriptedBackend(Scenario(models=["llama3.1"])), port=lab.port):
        eventually(lambda: manager.state is ServerState.FAILED, 10)
        with pytest.raises(
            errors.PortTaken, match=r"scripted engine now; this session began with the ollama one"
        ):
            manager.generate_sync("hi")


def test_a_server_that_hangs_before_it_is_joined_is_replaced(lab, monkeypatch):
    """
    Another kernel's server does not answer: it is ended by its guardian, and one that answers is
    started.
    """
    monkeypatch.setattr(server_module, "READY_S", 3.0)
    given = session().settings
    held = event_loop.run(leases.join(runtime_dir.folder(given)))
    LLMManager.get_instance().shutdown_sync()
    frozen = held.server
    os.kill(frozen, signal.SIGSTOP)
    manager = session()
    assert manager.pid != frozen
    assert "SCRIPTED" in manager.generate_sync("hi")
    gone([frozen])
    event_loop.run(held.leave())


def test_a_server_of_others_that_hangs_in_a_stream_is_told_with_the_text(lab):
    """The text that had come is on the error, as when a connection breaks."""
    with others(lab) as server:
        manager = session()
        manager._server.monitor.schedule = SHORT
        seen = []

        def read():
            for piece in manager.stream_sync("slow"):
                seen.append(piece)
                if len(seen) == 20:
                    os.kill(server.pid, signal.SIGSTOP)

        with pytest.raises(errors.StreamInterrupted, match="not even said its version") as caught:
            read()
        assert caught.value.partial == "".join(seen)


def test_a_trial_of_a_server_that_hangs_keeps_the_breaker_open(lab):
    """It says nothing: that is not the sign of a server that is well."""
    with others(lab) as server:
        manager = session(max_retries=0)
        manager.generate_sync("hi")
        breaker = manager._retrying.breaker(manager.model)
        for _ in range(5):
            breaker.record_failure(
                errors.ServerConnectionLost("gone", fix="again"), time.monotonic() - 60, trial=False
            )
        os.kill(server.pid, signal.SIGSTOP)
        assert manager.breaker() == "half_open"
        with pytest.raises(errors.ServerHung):
            manager.generate_sync("hi")
        assert manager.breaker() == "open"


def test_a_cancel_of_the_callers_own_stays_a_cancel(lab):
    """
    It comes at the same time as the shutdown: the task ends as cancelled, not with an error that
    its owner would go on after.
    """
    manager = session()

    async def main():
        call = asyncio.create_task(
            manager._stream([{"role": "user", "content": "slow"}], None, None).whole()
        )
        while not manager._in_flight:
            await asyncio.sleep(0.005)
        call.cancel()
        await manager._end_calls()
        with pytest.raises(asyncio.CancelledError):
            await call

    event_loop.run(main())


# Calls that fail ----------------------------------------------------------------------------------


@contextlib.contextmanager
def scripted(*rules, **scenario):
    with running(ScriptedBackend(Scenario(rules=rules, **scenario))) as started:
        yield started


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
        assert manager._retrying.breaker(manager.model).failures == 0


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
        breaker = manager._retrying.breaker(manager.model)
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
        ("max retries exceeded: unexpected EOF", errors.PullFailed, "use a model that is there"),
        ("pull model manifest: 412: newer", errors.ServerTooOld, "update Ollama"),
        (None, errors.PullFailed, "use a model that is there"),
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
        assert manager._retrying.breaker(manager.model).failures == 0


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
    assert process_state.get("guardians") in (None, [])
