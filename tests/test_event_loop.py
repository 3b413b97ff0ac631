"""
The bridge to the one background loop: results, interrupts, other loops, and what a fork finds.
"""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from urisk_nb import event_loop, process_state
from urisk_nb.errors import WrongThread


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


def test_run_gives_the_result_and_the_error():
    """
    A blocking caller gets what the coroutine returns, or its own exception.
    """
    assert event_loop.run(double(4)) == 8

    async def fail():
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        event_loop.run(fail())


def test_there_is_one_loop_and_one_thread():
    """
    Calls from many threads and loops share one loop.
    """

    async def which():
        return id(asyncio.get_running_loop()), threading.current_thread().name

    seen = {event_loop.run(which()), asyncio.run(event_loop.call(which()))}
    workers = [threading.Thread(target=lambda: seen.add(event_loop.run(which()))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(seen) == 1
    assert seen.pop()[1] == "urisk-loop"


def test_blocking_on_the_loop_itself_is_refused():
    """
    run() on the loop's own thread would wait for itself: an error says so.
    """

    async def wrong():
        return event_loop.run(double(1))

    with pytest.raises(WrongThread):
        event_loop.run(wrong())


def test_context_travels():
    """
    A context variable of the caller is seen by the coroutine, which is how output finds its cell.
    """
    name = contextvars.ContextVar("name", default="nobody")
    name.set("cell 7")

    async def read():
        return name.get()

    assert event_loop.run(read()) == "cell 7"


def test_tick_is_called_in_the_waiting_thread():
    """
    Progress is shown by the thread that waits, not by the loop's.
    """
    seen = []
    go = threading.Event()

    async def wait():
        while not go.is_set():
            await asyncio.sleep(0.001)

    def tick():
        seen.append(threading.current_thread())
        go.set()

    event_loop.run(wait(), tick)
    assert seen == [threading.current_thread()]


def test_a_cancelled_await_cancels_the_work():
    """
    Cancelling the caller on its own loop runs the coroutine's clean-up on ours.
    """
    started, cleaned = threading.Event(), threading.Event()

    async def work():
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            cleaned.set()

    async def caller():
        task = asyncio.create_task(event_loop.call(work()))
        await asyncio.to_thread(started.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(caller())
    assert cleaned.wait(2)


async def count(most, closed=None):
    try:
        for number in range(most):
            yield number
            if number % 50 == 0:
                await asyncio.sleep(0)
    finally:
        if closed is not None:
            closed.set()


def test_iteration_loses_nothing():
    """
    Every item arrives once and in order, for a blocking caller and for one on another loop.
    """
    assert list(event_loop.iterate_sync(count(2000))) == list(range(2000))

    async def collect():
        return [number async for number in event_loop.iterate(count(2000))]

    for _ in range(5):
        assert asyncio.run(collect()) == list(range(2000))


async def _one():
    yield 1


def test_the_end_of_an_iteration_is_seen_at_once(monkeypatch):
    """
    The caller does not wait for the end of a slice: with slices of 30 s, a hundred iterations end.
    """
    monkeypatch.setattr(event_loop, "SLICE_S", 30.0)
    began = time.monotonic()
    for _ in range(50):
        assert list(event_loop.iterate_sync(_one())) == [1]

    async def all_of():
        return [item async for item in event_loop.iterate(_one())]

    for _ in range(50):
        assert asyncio.run(all_of()) == [1]
    assert time.monotonic() - began < 10


def test_leaving_an_iteration_closes_the_source():
    """
    A caller that stops early cancels the source and its clean-up has run.
    """
    closed = threading.Event()

    async def endless():
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    for _ in event_loop.iterate_sync(endless()):
        break
    assert closed.wait(1)


def test_an_error_in_the_source_reaches_the_caller():
    """
    What was sent before it is still handed out.
    """

    async def source():
        yield 1
        raise LookupError("after one")

    seen = []
    with pytest.raises(LookupError):
        seen.extend(event_loop.iterate_sync(source()))
    assert seen == [1]


def script(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, **options
    )


@pytest.mark.timing
def test_an_interrupt_cancels_and_waits_for_the_clean_up():
    """
    SIGINT in a blocking wait: the coroutine's clean-up has run when KeyboardInterrupt is seen, at
    once, and the next call works.
    """
    process = script("""
        import asyncio, time
        from urisk_nb import event_loop
        async def work():
            print("started", flush=True)
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.02)
                print("cleaned", flush=True)
        async def next_one():
            return "next"
        try:
            event_loop.run(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(event_loop.run(next_one()), flush=True)
    """)
    assert process.stdout.readline() == "started\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert [process.stdout.readline().strip() for _ in range(3)] == [
        "cleaned",
        "interrupted",
        "next",
    ]
    seconds = time.monotonic() - began
    print(f"interrupt to next result: {seconds * 1e3:.0f} ms")
    assert seconds < 0.25
    process.stdout.close()
    assert process.wait(5) == 0


def interrupt_at(step, work):
    """Do the work, with a KeyboardInterrupt in place of the step of that number."""
    left = step

    def trace(frame, event, _):
        nonlocal left
        if frame.f_globals["__name__"] not in ("threading", "urisk_nb.event_loop"):
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


def test_an_interrupt_is_one_wherever_it_falls(monkeypatch):
    """
    On each step of the wait in turn: it stays a KeyboardInterrupt, and the loop goes on.
    """
    monkeypatch.setattr(event_loop, "SLICE_S", 0.001)
    for step in range(10_000):
        call = event_loop.submit(asyncio.sleep(0.003, "slept"))
        try:
            interrupt_at(step, call.wait)
        except KeyboardInterrupt:
            assert call.done.wait(5)
        else:
            break
    assert step > 50, "less of the wait was looked at than there is"
    assert event_loop.run(double(2)) == 4


def test_an_interrupt_leaves_no_work_behind_wherever_it_falls(monkeypatch):
    """On each step of a blocking call in turn: what it began has ended when it is raised."""
    monkeypatch.setattr(event_loop, "SLICE_S", 0.001)
    running = set()

    async def work(number):
        running.add(number)
        try:
            await asyncio.sleep(0.003)
        finally:
            running.discard(number)

    for step in range(10_000):
        coro = work(step)
        try:
            interrupt_at(step, lambda coro=coro: event_loop.run(coro))
        except KeyboardInterrupt:
            assert event_loop.run(double(2)) == 4  # whatever was queued on the loop has run
            assert not running
            coro.close()  # one that was never begun
        else:
            break
    assert step > 60, "less of the call was looked at than there is"


@pytest.mark.timing
def test_a_second_interrupt_skips_the_clean_up():
    """
    A clean-up that hangs does not hold the prompt: a second SIGINT goes through at once.
    """
    process = script("""
        import asyncio, threading
        from urisk_nb import event_loop
        async def work():
            print("started", flush=True)
            try:
                await asyncio.sleep(30)
            finally:
                print("cleaning", flush=True)
                await asyncio.sleep(30)
        try:
            event_loop.run(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - began < 0.5
    process.stdout.close()
    process.wait(5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_gets_a_loop_of_its_own():
    """
    The parent's loop thread does not exist in a child: the child makes its own, and the parent's
    goes on.
    """
    assert event_loop.run(double(1)) == 2
    child = os.fork()
    if child == 0:
        os._exit(0 if event_loop.run(double(21)) == 42 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert event_loop.run(double(2)) == 4


def test_state_survives_a_reimport():
    """
    Deleting the modules and importing them again finds the same loop, and registers no second exit
    handler.
    """
    process = script("""
        import sys
        from urisk_nb import event_loop, process_state
        first = event_loop._get_background().loop
        process_state.put("x", 5)
        for name in [name for name in sys.modules if name.startswith("urisk_nb")]:
            del sys.modules[name]
        from urisk_nb import event_loop as again, process_state as fresh
        assert again is not event_loop
        print(again._get_background().loop is first, fresh.get("x"))
    """)
    assert process.communicate(timeout=20)[0] == "True 5\n"


def test_closers_run_once_at_exit_and_not_in_a_child():
    """
    At the end of the process each closer runs, the last first, one's failure not keeping the
    others; a forked child runs none.
    """
    process = script(
        """
        import os, sys
        from urisk_nb import process_state
        process_state.at_exit("a", lambda: print("a closed", flush=True))
        process_state.at_exit("bad", lambda: 1 / 0)
        process_state.at_exit("b", lambda: print("b closed", flush=True))
        process_state.at_exit("b", lambda: print("b closed", flush=True))
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
    """,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=20)
    assert out == "b closed\na closed\n"
    assert "division by zero" in err


def test_setdefault_makes_once():
    """
    Many threads asking at once get one thing.
    """
    made, got = [], []

    def make():
        made.append(1)
        return object()

    workers = [
        threading.Thread(target=lambda: got.append(process_state.setdefault("made-once", make)))
        for _ in range(16)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    process_state.forget("made-once")
    assert len(made) == 1
    assert len(set(map(id, got))) == 1
