"""The session of this process as the app uses it, and ways to its loop."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from urisk_nb import event_loop
from urisk_nb.errors import NotInitialized, ServerStartFailed, UriskError
from urisk_nb.llm.answers import AnswerStream
from urisk_nb.llm.manager import LLMManager, StartEvent
from urisk_nb.settings import Settings, load

__all__ = ["LiveSession", "run_on_loop", "stream_pieces"]

T = TypeVar("T")
RETRY_START_S = 30.0  # a session that failed is started again at most this often


class LiveSession:
    """The manager of this process: started in the background, ended only by who started it."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self.flags = dict(flags)
        self.settings: Settings = load(**flags)
        self.step = "starting"
        self.failed: list[UriskError] = []
        self.has_started = False  # once a start has succeeded
        self._start: asyncio.Task[LLMManager] | None = None
        self._last_start_s = -math.inf
        self._is_owner = False

    @property
    def running(self) -> LLMManager | None:
        """The manager, where there is one."""
        with contextlib.suppress(NotInitialized):
            return LLMManager.get_instance()
        return None

    async def begin(self) -> None:
        """
        Start a manager in the background where none is running.

        /health answers meanwhile.
        """
        self.has_started = self.running is not None
        if not self.has_started:
            self._is_owner = True
            self._start_session(self.flags)

    def _start_session(self, flags: Mapping[str, Any]) -> asyncio.Task[LLMManager]:
        self._last_start_s = time.monotonic()
        self._start = asyncio.create_task(LLMManager.initialize(progress=self._progress, **flags))
        self._start.add_done_callback(self._note_start)
        return self._start

    def _progress(self, event: StartEvent) -> None:
        self.step = event.text

    def _note_start(self, start: asyncio.Task[LLMManager]) -> None:
        if start.cancelled():
            return
        error = start.exception()
        self.has_started = self.has_started or error is None
        if error is not None:
            odd = ServerStartFailed(
                f"the session could not be started: {error!r}.", fix="report it"
            )
            self.failed = [error if isinstance(error, UriskError) else odd]

    async def manager(self) -> LLMManager:
        """
        Return the manager, when it has started.

        One that failed for good is started again, at most every RETRY_START_S.
        """
        if self._start is not None and not self._start.done():
            return await asyncio.shield(self._start)
        running = self.running
        if running is not None and running.failure is None:
            return running
        if time.monotonic() - self._last_start_s > RETRY_START_S:
            return await asyncio.shield(self._start_session(self.flags if running is None else {}))
        if running is not None:
            return running  # its calls say why
        # One of its own for each caller: a traceback grows with each raise.
        raise (
            copy.copy(self.failed[-1])
            if self.failed
            else NotInitialized("the session was ended.", fix=f"ask again in {RETRY_START_S:g} s")
        )

    async def end(self) -> None:
        """
        End the session where it was started here, and a server that was started for it.

        Calls in flight end with ServerConnectionLost.
        """
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait({self._start})
        if self._is_owner and (running := self.running) is not None:
            await running.shutdown()


async def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """
    Await the work, which runs on the package's loop.

    `event_loop.call` wakes for interrupts: with 1,000 callers 20,000 times a second. There are no
    interrupts here.
    """
    here, ended = asyncio.get_running_loop(), asyncio.Event()
    call = event_loop.Call(work, lambda: here.call_soon_threadsafe(ended.set))
    try:
        await ended.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    return call.result()


async def stream_pieces(stream: AnswerStream) -> AsyncGenerator[str, None]:
    """Yield the pieces of an answer; closing the iterator stops the generation."""
    here: asyncio.AbstractEventLoop = asyncio.get_running_loop()
    items: asyncio.Queue[str | None] = asyncio.Queue()

    async def push() -> None:
        async with aclosing(stream.pieces()) as pieces:
            async for piece in pieces:
                here.call_soon_threadsafe(items.put_nowait, piece)

    call = event_loop.Call(push(), lambda: here.call_soon_threadsafe(items.put_nowait, None))
    try:
        while (piece := await items.get()) is not None:
            yield piece
    finally:
        if not call.done.is_set():
            call.cancel()
    call.result()
