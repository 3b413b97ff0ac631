"""The session of this process as the app uses it."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Mapping
from typing import Any

from urisk_nb.errors import NotInitialized, ServerStartFailed, UriskError
from urisk_nb.llm.manager import LLMManager, StartEvent
from urisk_nb.settings import load

__all__ = ["LiveSession"]

RETRY_START_S = 30.0  # a session that failed is started again at most this often


class LiveSession:
    """The manager of this process: started in the background, ended only by who started it."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self.flags = dict(flags)
        self.settings = load(**flags)
        self.step = "starting"
        self.failure: UriskError | None = None  # of the last start that failed
        self.has_started = False  # once a start has succeeded
        self._start: asyncio.Task[LLMManager] | None = None
        self._last_start_s = -math.inf
        self._is_owner = False

    async def begin(self) -> None:
        """
        Start a manager in the background where none is running.

        /health answers meanwhile.
        """
        self.has_started = LLMManager.find_instance() is not None
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
        if error is not None and not isinstance(error, UriskError):
            error = ServerStartFailed(
                f"the session could not be started: {error!r}.", fix="report it"
            )
        self.failure = error or self.failure

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way."""
        return self._start is not None and not self._start.done()

    async def manager(self) -> LLMManager:
        """
        Return the manager, when it has started.

        One that failed for good is started again, at most every RETRY_START_S.
        """
        if self._start is not None and not self._start.done():
            return await asyncio.shield(self._start)
        running = LLMManager.find_instance()
        if running is not None and running.server.failure is None:
            return running
        if time.monotonic() - self._last_start_s > RETRY_START_S:
            return await asyncio.shield(self._start_session(self.flags if running is None else {}))
        if running is not None:
            return running  # its calls say why
        # One of its own for each caller: a traceback grows with each raise.
        raise copy.copy(self.failure) or NotInitialized(
            "the session was ended.", fix=f"ask again in {RETRY_START_S:g} s"
        )

    async def end(self) -> None:
        """
        End the session where it was started here, and a server that was started for it.

        Calls in flight end with ServerConnectionLost.
        """
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait({self._start})
        if self._is_owner and (running := LLMManager.find_instance()) is not None:
            await running.shutdown()
