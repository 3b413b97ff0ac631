"""The end: interrupts, shutdown, the interpreter's end, forks; nothing is left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fake_ollama import Rule
from harness import OllamaProgram, alive, children, eventually
from manager_env import ROOT, SECONDS_TO_PROMPT, SLOW, answers, free_url, scripted, server
from urisk_nb import errors
from urisk_nb.llm.manager import LLMManager

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


@pytest.mark.timing
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
    with server(SLOW, Rule(contains="late", first_ms=60_000), Rule(answer="fine")) as other:
        with kernel_like(INTERRUPTED.format(call=call), other.url) as kernel:
            eventually(lambda: other.counters["in_flight"] == 1, 15)
            sent = time.monotonic()
            os.killpg(kernel.pid, signal.SIGINT)
            assert float(kernel.stdout.readline()) - sent < SECONDS_TO_PROMPT
            assert kernel.stdout.readline() == "fine\n"
            assert kernel.wait(5) == 0
        eventually(lambda: other.counters["aborted"] == 1)


@pytest.mark.timing
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
    with server(load_ms=60_000) as other:
        with kernel_like(code, other.url) as kernel:
            eventually(lambda: other.counters["paths"].get("/api/chat"), 15)
            sent = time.monotonic()
            os.killpg(kernel.pid, signal.SIGINT)
            assert float(kernel.stdout.readline()) - sent < SECONDS_TO_PROMPT
            assert kernel.stdout.readline() == "none\n"
            assert kernel.wait(5) == 0
        eventually(lambda: other.counters["connections_open"] == 0)


# Shutdown -----------------------------------------------------------------------------------------


@pytest.mark.timing
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
    with server(SLOW) as other, ThreadPoolExecutor(2) as pool:
        manager = LLMManager.initialize_sync(url=other.url, engine="auto")
        calls = [pool.submit(manager.generate_sync, "slow") for _ in range(2)]
        eventually(lambda: other.counters["in_flight"] == 1 and len(manager.limiter._tasks) == 2)
        began = time.monotonic()
        manager.shutdown_sync()
        for call in calls:
            with pytest.raises(errors.ServerConnectionLost, match="shut down during the call"):
                call.result(5)
        assert time.monotonic() - began < 1
        eventually(lambda: other.counters["in_flight"] == 0)
        assert other.counters["paths"]["/api/chat"] == 1 + 1


def test_a_server_of_others_goes_on_with_its_model():
    """What was adopted is neither stopped nor emptied."""
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url)
        manager.shutdown_sync()
        with urllib.request.urlopen(f"{other.url}/api/ps", timeout=5) as reply:
            assert [model["name"] for model in json.load(reply)["models"]] == ["llama3.1:latest"]
        eventually(lambda: other.counters["connections_open"] == 0)


@pytest.mark.timing
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
    with server(Rule(answer=["ok"])) as other:
        for _ in range(10):
            manager = LLMManager.initialize_sync(url=other.url)
            manager.generate_sync("hi")
            manager.shutdown_sync()
            eventually(lambda: other.counters["connections_open"] == 0)
            seen.append(handles())
    assert seen[-1] == seen[1]
