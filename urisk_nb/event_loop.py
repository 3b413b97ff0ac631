"""The one background loop, and the ways to it: from a cell, from a thread, from another loop.

One daemon thread runs the only asyncio loop of the package. A blocking caller waits in short
slices, so that an interrupt is seen at once; the interrupt cancels the work on the loop and waits,
for a bounded time, until its clean-up has run. The caller's context variables travel with each
call, which is how output finds its cell.

Why not the kernel's own loop: an interrupt there hits whatever task happens to run, and a nested
loop loses queued cells.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from typing import Any, Generic, TypeVar, cast

from urisk_nb import process_state
from urisk_nb.errors import WrongThread, raise_ungrouped

__all__ = [
    "CLEANUP_S",
    "SLICE_S",
    "Call",
    "call",
    "iterate",
    "iterate_sync",
    "loop",
    "on_loop",
    "run",
    "skip_checkpoints",
    "submit",
]

T = TypeVar("T")
# How long a wait may last before the interpreter looks for a signal (Windows locks ignore Ctrl-C)
SLICE_S = 0.05
# How long an interrupt waits for the cancelled work to clean up; a second interrupt skips the rest
CLEANUP_S = 1.0
# Checkpoints in a row: work that looks again and again whether another task is done needs it to run
MAX_SKIPPED = 100


class _Background:
    """The loop and its thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="urisk-loop", daemon=True)
        # An empty context: what runs on the loop by itself must not print into the cell that
        # happened to start it.
        contextvars.Context().run(self.thread.start)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        """
        In a forked child: let go of the selector, whose list of files the kernel shares with the
        parent. Else the end of a copy of a connection here would take the connection off the
        parent's list, which would never hear from it again.
        """
        selector = getattr(self.loop, "_selector", None)
        if selector is not None:
            selector.close()


def _get_background() -> _Background:
    return cast(_Background, process_state.setdefault("loop", _Background))


class _Done:
    """
    Whether a call has ended, to wait for. An interrupt may fall on any step of the Python code of
    threading.Event: it would become "release unlocked lock" there, or leave a lock behind for which
    the loop waits for ever. A SimpleQueue is C code.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._wakes.put(None)

    def wait(self, timeout: float) -> bool:
        """Block until it is set, or for `timeout` seconds; return whether it is set."""
        if not self._is_set:
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=timeout)
                self._wakes.put(None)  # for whoever else waits
        return self._is_set


class Call(Generic[T]):
    """
    One coroutine that runs on the loop; the handle may be used from any thread.

    Parameters
    ----------
    coro
        What runs.
    notify
        Called on the loop's thread when it has ended.
    is_begun
        False: it begins with `wait`, where an interrupt cancels it.
    """

    def __init__(
        self,
        coro: Coroutine[Any, Any, T],
        notify: Callable[[], Any] | None = None,
        *,
        is_begun: bool = True,
    ) -> None:
        self._loop = _get_background().loop
        self._task: asyncio.Task[T] | None = None
        self.done = _Done()
        self._coro = coro
        self._notify = notify
        self._is_begun = is_begun
        if is_begun:
            self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coro)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # looked at here, so that an abandoned call does not warn at exit
        self.done.set()
        if self._notify is not None:
            with contextlib.suppress(RuntimeError):  # the caller's loop may be closed by now
                self._notify()

    def cancel(self) -> None:
        """Ask the work to stop; its `finally` blocks still run."""
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # interrupted before it began
            self._coro.close()
            self.done.set()

    def result(self) -> T:
        """Return the value or the exception, once `done` is set."""
        if self._task is None:
            raise RuntimeError("the call has not begun: wait for `done` first")
        with raise_ungrouped():
            return self._task.result()

    def wait(self, tick: Callable[[], Any] | None = None) -> T:
        """
        Block until the work has ended; `tick` is called in the waiting thread about every SLICE_S
        (to show progress there).

        Raises
        ------
        KeyboardInterrupt
            After the work has been cancelled and its clean-up has run, or CLEANUP_S later, or at a
            second interrupt.
        """
        try:
            if not self._is_begun:
                self._loop.call_soon_threadsafe(self._start)
                self._is_begun = True
            while not self.done.wait(SLICE_S):
                if tick is not None:
                    tick()
        except BaseException:
            self.cancel()
            self.done.wait(CLEANUP_S)
            raise
        return self.result()


def loop() -> asyncio.AbstractEventLoop:
    """Return the background loop; for `call_soon_threadsafe`."""
    return _get_background().loop


def on_loop() -> bool:
    """Return whether the caller runs on the background loop's thread."""
    return threading.current_thread() is _get_background().thread


def submit(coro: Coroutine[Any, Any, T]) -> Call[T]:
    """Start the coroutine on the loop and return at once."""
    return Call(coro)


def run(coro: Coroutine[Any, Any, T], tick: Callable[[], Any] | None = None) -> T:
    """
    Run the coroutine on the loop and block for its result; an interrupt cancels it.

    Parameters
    ----------
    coro
        What to run.
    tick
        Called in the waiting thread about every SLICE_S; an exception from it cancels the work as
        an interrupt does.

    Raises
    ------
    WrongThread
        Called on the loop's own thread, where it would wait for itself.
    """
    if on_loop():
        coro.close()
        raise WrongThread(
            "a blocking call was made on urisk_nb's own loop.",
            fix="use the awaitable form there: await ... instead of ..._sync(...)",
        )
    return Call(coro, is_begun=False).wait(tick)


async def call(
    coro: Coroutine[Any, Any, T],
    *,
    slice_s: float | None = SLICE_S,
    tick: Callable[[], Any] | None = None,
) -> T:
    """
    Await the coroutine from any loop; it runs on the background loop.

    The wait wakes every `slice_s`: an idle kernel loop would otherwise not see an interrupt
    (ipykernel issue 881). None never wakes: a service has many callers and no interrupts. `tick` is
    called then, on the loop of the caller; an exception from it cancels the work.
    """
    if on_loop() and tick is None:
        return await coro
    here, ended = asyncio.get_running_loop(), asyncio.Event()
    work = Call(coro, lambda: here.call_soon_threadsafe(ended.set))
    try:
        while not work.done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), slice_s)
            if tick is not None:
                tick()
    except asyncio.CancelledError:
        work.cancel()
        raise
    except BaseException:  # from `tick`
        work.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), CLEANUP_S)
        raise
    return work.result()


@types.coroutine
def skip_checkpoints(coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """
    Await the coroutine; other tasks run only while it waits for something.

    anyio lets them run at checkpoints, too, and a call has eight of these between a reply and the
    next request. Calls that end at the same time would take turns there: all their next requests
    would be late, and they would end at the same time again. Here the first call sends its next
    request before the second one is looked at.
    """
    resume: Callable[[Any], Any] = coro.send
    given: BaseException | None = None
    skipped = 0
    while True:
        try:
            waits_for = resume(given)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # of `coro`
        resume, given = coro.send, None
        if waits_for is None and skipped < MAX_SKIPPED:  # a bare yield waits for nothing
            skipped += 1
            continue
        skipped = 0
        try:
            yield waits_for
        except BaseException as exc:  # noqa: BLE001  a cancel, for one: it is for the coroutine
            resume, given = coro.throw, exc


def iterate_sync(source: AsyncIterator[T], tick: Callable[[], object] | None = None) -> Iterator[T]:
    """
    Items of an asynchronous iterator, one by one, for a blocking caller.

    An interrupt, or leaving the iteration early, cancels the source and waits for its clean-up.
    `tick` is called about every SLICE_S while no item comes.
    """
    if on_loop():
        raise WrongThread(
            "a blocking iteration was begun on urisk_nb's own loop.", fix="use `async for` there"
        )
    items: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
    # None follows the last item: a caller that waits for the next one wakes at once, and not when
    # its slice is over.
    work = Call(_pump(source, items.put), lambda: items.put(None))
    try:
        while True:
            try:
                found = items.get(timeout=SLICE_S)
            except queue.Empty:
                if tick is not None:
                    tick()
                continue
            if found is None:
                break
            yield found[0]
    finally:
        if not work.done.is_set():
            work.cancel()
            work.done.wait(CLEANUP_S)
    work.result()


async def iterate(
    source: AsyncIterator[T], *, slice_s: float | None = SLICE_S
) -> AsyncGenerator[T, None]:
    """
    Items of an asynchronous iterator that lives on the background loop, for a caller on any loop;
    `slice_s` as in `call`.
    """
    if on_loop():
        async for item in source:
            yield item
        return
    here = asyncio.get_running_loop()
    items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

    def put(item: tuple[T] | None) -> None:
        here.call_soon_threadsafe(items.put_nowait, item)

    work = Call(_pump(source, put), lambda: put(None))
    try:
        while True:
            try:
                found = await asyncio.wait_for(items.get(), slice_s)
            except TimeoutError:
                continue
            if found is None:
                break
            yield found[0]
    finally:
        if not work.done.is_set():
            work.cancel()
    work.result()


async def _pump(source: AsyncIterator[T], put: Callable[[tuple[T]], Any]) -> None:
    try:
        async for item in source:
            put((item,))
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
