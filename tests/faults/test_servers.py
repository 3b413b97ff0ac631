"""
The fault matrix, as a server meets it: killed, stopped, hung, replaced, ending again and again;
what its user sees of that.

A manager of this process over real processes of the fake Ollama; what they answer is
SCRIPTED.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_ollama_env import SLOW, gone
from fake_openai import FakeOpenAI
from fault_calls import LATER, asked, in_flight, session
from harness import eventually
from urisk_nb import errors, event_loop
from urisk_nb.llm.manager import LLMManager
from urisk_nb.server import leases, runtime_dir
from urisk_nb.server import model_server as server_module
from urisk_nb.server.liveness import ProbeSchedule
from urisk_nb.server.model_server import ServerState
from urisk_nb.server.restart_policy import RestartPolicy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


# Our server ends ----------------------------------------------------------------------------------


@pytest.mark.timing
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
    manager.server.monitor.schedule = SHORT
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
        manager.server.monitor.schedule = SHORT
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
    manager.server.monitor.schedule = SHORT
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
    lab.plan(process={"exit_after_ms": 600, "last_words": "panic: SCRIPTED", "exit_code": 2})
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
    assert "shared with another kernel" in second.snapshot().server_label
    assert ["other settings" in note for note in second.notes] == [True]
    second.shutdown_sync()
    event_loop.run(held.leave())


def test_more_calls_than_slots_is_said_so(lab):
    """What waits inside of the server cannot be cancelled: the way to more slots is told."""
    manager = session()
    assert session(parallel=3) is manager
    assert manager.notes[-1].startswith("The server was started with one slot")
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
    real = manager.lead.client.aclose

    async def fails():
        await real()
        raise OSError("no")

    manager.lead.client.aclose = fails
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


@pytest.mark.timing
@pytest.mark.parametrize(
    "failure", [errors.ServerBusy, errors.ServerTimeout, errors.RunnerCrashed, errors.OutOfMemory]
)
def test_a_warm_up_that_fails_after_a_restart_costs_neither_server_nor_share(failure, lab):
    """The server is up: the next call is asked as ever; and after the shutdown nothing is left."""
    manager = session()
    failures = iter([failure("not now", fix="later")])
    real = manager.lead.client.load

    async def load(body):
        if error := next(failures, None):
            raise error
        await real(body)

    manager.lead.client.load = load
    os.kill(manager.pid, signal.SIGKILL)
    eventually(lambda: manager.restart_count == 1 and manager.server._recovery.done(), 10)
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
    other = FakeOpenAI(["llama3.1"])
    event_loop.run(other.start(lab.port))
    try:
        eventually(lambda: manager.state is ServerState.FAILED, 10)
        with pytest.raises(
            errors.PortTaken, match=r"openai engine now; this session began with the ollama one"
        ):
            manager.generate_sync("hi")
    finally:
        event_loop.run(other.stop())


def test_a_server_that_hangs_before_it_is_joined_is_replaced(lab, monkeypatch):
    """
    Another kernel's server does not answer: it is ended by its guardian, and one that answers is
    started.
    """
    monkeypatch.setattr(server_module, "READY_S", 3.0)
    given = session().settings
    held = event_loop.run(leases.join(runtime_dir.folder(given)))
    LLMManager.get_instance().shutdown_sync()
    frozen = held.server_pid
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
        manager.server.monitor.schedule = SHORT
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
        breaker = manager.lead.retrying.breakers[manager.model]
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
        while not manager.limiter.in_flight:
            await asyncio.sleep(0.005)
        call.cancel()
        await manager.limiter.cancel_all(0.2)
        with pytest.raises(asyncio.CancelledError):
            await call

    event_loop.run(main())
