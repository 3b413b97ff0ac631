"""Which models are loaded, with which context window, until when, and who waits for them.

Knows: loads one at a time, reload on another `num_ctx`, sticky keep_alive, slots.
Does not know: HTTP, what is asked.
Source: protocol notes, sections 4 and 6.8.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fake_ollama.backend import Backend, Model, Refusal
from fake_ollama.go_compat import FOREVER_NS

KEEP_NS = 5 * 60 * 10**9
"""Ollama's own keep_alive where nobody gives one, ns."""
QUEUE = 512
"""Requests that may wait for a load."""


@dataclass(slots=True, kw_only=True)
class LoadedModel:
    """One loaded model."""

    model: Model
    num_ctx: int
    size_bytes: int
    keep_ns: int
    slots: asyncio.Semaphore
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: bool = False  # a reload waits for it; nobody may join
    lost: bool = False  # its runner is dead; shown until the next request loads it again
    expires_ns: int = 0
    timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Count the keep-alive from now."""
        self.expires_ns = time.time_ns() + self.keep_ns


class LoadedModels:
    """The models in memory. For one loop."""

    def __init__(self, backend: Backend, *, queue: int = QUEUE) -> None:
        self._backend = backend
        self._queue = queue
        self._held: dict[str, LoadedModel] = {}
        self._going: list[LoadedModel] = []  # being freed: shown, but not used any more
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.loads = 0  # how often a model was loaded or loaded again

    def shown(self) -> list[LoadedModel]:
        """Those in memory, the longest remaining time first."""
        return sorted(
            [*self._held.values(), *self._going], key=lambda loaded_model: -loaded_model.expires_ns
        )

    @contextlib.asynccontextmanager
    async def use(
        self, model: Model, num_ctx: int | None, keep_ns: int | None
    ) -> AsyncIterator[LoadedModel]:
        """The model, loaded and kept while the block runs.

        Waits for a load, for the users of another context window to end, or for neither. A cancel
        while loading keeps nothing.

        Parameters
        ----------
        num_ctx
            Context window, tokens; None: the backend's default, *not* the one in force, as in
            Ollama.
        keep_ns
            None: what was given last, or the default at a load.

        Raises
        ------
        Refusal
            503 when too many wait for a load; what the backend's load raises.
        """
        wanted = min(num_ctx or self._backend.default_num_ctx, model.context_length)
        loaded_model = self._held.get(model.name)
        if (
            loaded_model is None
            or loaded_model.num_ctx != wanted
            or loaded_model.leaving
            or loaded_model.lost
        ):
            loaded_model = await self._load(model, wanted, keep_ns)
        else:
            loaded_model.users += 1
        if keep_ns is not None:
            loaded_model.keep_ns = keep_ns
        self._hold(loaded_model)
        try:
            yield loaded_model
        finally:
            self._release(loaded_model)

    def unload(self, model: Model) -> None:
        """Let the model go as soon as it is idle; returns at once."""
        loaded_model = self._held.get(model.name)
        if loaded_model is not None:
            loaded_model.keep_ns = 0
            if not loaded_model.users:
                self._release_timer(loaded_model)

    def lose(self, name: str) -> None:
        """
        The runner of this model is dead; it shows until the next request, which loads it again.
        """
        if name in self._held:
            self._held[name].lost = True

    async def close(self) -> None:
        """Forget every model and stop the timers; the backend frees them in its own close."""
        for loaded_model in self._held.values():
            if loaded_model.timer:
                loaded_model.timer.cancel()
        self._held.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self, model: Model, num_ctx: int, keep_ns: int | None) -> LoadedModel:
        if self._waiting >= self._queue:
            raise Refusal(503, "server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        try:
            async with self._lock:
                return await self._load_locked(
                    model, num_ctx, KEEP_NS if keep_ns is None else keep_ns
                )
        finally:
            self._waiting -= 1

    async def _load_locked(self, model: Model, num_ctx: int, keep_ns: int) -> LoadedModel:
        loaded_model = self._held.get(model.name)
        if loaded_model is not None and (loaded_model.lost or loaded_model.num_ctx != num_ctx):
            await self._evict(loaded_model)
            loaded_model = None
        if loaded_model is None:
            size = await self._backend.load(model, num_ctx)
            self.loads += 1
            slots = asyncio.Semaphore(self._backend.slots)
            loaded_model = LoadedModel(
                model=model, num_ctx=num_ctx, size_bytes=size, keep_ns=keep_ns, slots=slots
            )
            self._held[model.name] = loaded_model
        loaded_model.users += 1
        return loaded_model

    async def _evict(self, loaded_model: LoadedModel) -> None:
        loaded_model.leaving = True
        try:
            if loaded_model.users:
                await loaded_model.idle.wait()
        finally:
            loaded_model.leaving = False
        await self._drop(loaded_model)

    async def _drop(self, loaded_model: LoadedModel) -> None:
        """Forget first, then free: whoever comes in between must load anew."""
        if loaded_model.timer:
            loaded_model.timer.cancel()
        self._held.pop(loaded_model.model.name, None)
        self._going.append(loaded_model)
        try:
            await self._backend.unload(loaded_model.model)
        finally:
            self._going.remove(loaded_model)

    def _hold(self, loaded_model: LoadedModel) -> None:
        loaded_model.idle.clear()
        if loaded_model.timer:
            loaded_model.timer.cancel()
            loaded_model.timer = None
        loaded_model.touch()

    def _release(self, loaded_model: LoadedModel) -> None:
        loaded_model.users -= 1
        if loaded_model.users:
            return
        loaded_model.idle.set()
        if loaded_model is self._held.get(loaded_model.model.name):
            self._release_timer(loaded_model)

    def _release_timer(self, loaded_model: LoadedModel) -> None:
        loaded_model.touch()
        if loaded_model.timer:
            loaded_model.timer.cancel()
        if loaded_model.keep_ns < FOREVER_NS:
            loop = asyncio.get_running_loop()
            loaded_model.timer = loop.call_later(
                loaded_model.keep_ns / 1e9, self._expire, loaded_model
            )

    def _expire(self, loaded_model: LoadedModel) -> None:
        task = asyncio.ensure_future(self._expire_locked(loaded_model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire_locked(self, loaded_model: LoadedModel) -> None:
        async with self._lock:
            # Timers may fire a little early
            due = time.time_ns() >= loaded_model.expires_ns - 10**7 or loaded_model.keep_ns == 0
            if (
                due
                and not loaded_model.users
                and loaded_model is self._held.get(loaded_model.model.name)
            ):
                await self._drop(loaded_model)
