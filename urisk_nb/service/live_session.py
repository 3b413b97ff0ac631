"""
The process's session as the app uses it, and ways to its loop that do not wake for interrupts.
"""

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

__all__ = ["LiveSession", "pieces_of", "there"]

T = TypeVar("T")
AGAIN_S = 30.0  # a session that failed is started anew at most this often


class LiveSession:
    """
    The process's manager as the app uses it: begun in the background, ended only where the app
    began it.
    """

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self.flags = dict(flags)
        self.settings: Settings = load(**flags)
        self.step = "starting"
        self.failed: list[UriskError] = []
        self.is_begun = False  # once a start has succeeded
        self._start: asyncio.Task[LLMManager] | None = None
        self._tried_s = -math.inf
        self._is_ours = False

    @property
    def running(self) -> LLMManager | None:
        """The manager, where there is one."""
        with contextlib.suppress(NotInitialized):
            return LLMManager.get_instance()
        return None

    async def begin(self) -> None:
        """
        A manager that runs already is used as it is; else one is started, and /health can be asked
        meanwhile.
        """
        self.is_begun = self.running is not None
        if not self.is_begun:
            self._is_ours = True
            self._begin(self.flags)

    def _begin(self, flags: Mapping[str, Any]) -> asyncio.Task[LLMManager]:
        self._tried_s = time.monotonic()
        self._start = asyncio.create_task(LLMManager.initialize(progress=self._progress, **flags))
        self._start.add_done_callback(self._begun)
        return self._start

    def _progress(self, event: StartEvent) -> None:
        self.step = event.text

    def _begun(self, start: asyncio.Task[LLMManager]) -> None:
        if start.cancelled():
            return
        error = start.exception()
        self.is_begun = self.is_begun or error is None
        if error is not None:
            odd = ServerStartFailed(
                f"the session could not be started: {error!r}.", fix="report it"
            )
            self.failed = [error if isinstance(error, UriskError) else odd]

    async def manager(self) -> LLMManager:
        """
        The manager that is to be asked: waits for its start. One that failed for good is started
        anew, at most every AGAIN_S.
        """
        if self._start is not None and not self._start.done():
            return await asyncio.shield(self._start)
        running = self.running
        if running is not None and running.failure is None:
            return running
        if time.monotonic() - self._tried_s > AGAIN_S:
            return await asyncio.shield(self._begin(self.flags if running is None else {}))
        if running is not None:
            return running  # its calls say why
        # One of its own for each caller: a traceback grows with each raise.
        raise (
            copy.copy(self.failed[-1])
            if self.failed
            else NotInitialized("the session was ended.", fix=f"ask again in {AGAIN_S:g} s")
        )

    async def end(self) -> None:
        """
        What was begun here ends here: calls under way with ServerConnectionLost, a server that was
        started for it with it.
        """
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait({self._start})
        if self._is_ours and (running := self.running) is not None:
            await running.shutdown()


async def there(work: Coroutine[Any, Any, T]) -> T:
    """
    Await the work, which runs on the package's loop. Not by `bridge.call`: it wakes for interrupts,
    20,000 times a second for 1,000.
    """
    here, ended = asyncio.get_running_loop(), asyncio.Event()
    call = event_loop.Call(work, lambda: here.call_soon_threadsafe(ended.set))
    try:
        await ended.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    return call.result()


async def pieces_of(stream: AnswerStream) -> AsyncGenerator[str, None]:
    """
    The pieces of an answer that is made on the package's loop; leaving them stops the generation.
    """
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
