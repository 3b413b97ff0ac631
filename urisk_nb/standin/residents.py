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

from urisk_nb.standin.brain import Brain, Model, Refused
from urisk_nb.standin.gojson import FOREVER_NS

KEEP_NS = 5 * 60 * 10**9
"""Ollama's own keep_alive where nobody gives one, ns."""
QUEUE = 512
"""Requests that may wait for a load."""


@dataclass(slots=True, kw_only=True)
class Resident:
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


class Residents:
    """The models in memory. For one loop."""

    def __init__(self, brain: Brain, *, queue: int = QUEUE) -> None:
        self._brain = brain
        self._queue = queue
        self._held: dict[str, Resident] = {}
        self._going: list[Resident] = []  # being freed: shown, but not used any more
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.loads = 0  # how often a model was loaded or loaded again

    def shown(self) -> list[Resident]:
        """Those in memory, the longest remaining time first."""
        return sorted(
            [*self._held.values(), *self._going], key=lambda resident: -resident.expires_ns
        )

    @contextlib.asynccontextmanager
    async def use(
        self, model: Model, num_ctx: int | None, keep_ns: int | None
    ) -> AsyncIterator[Resident]:
        """The model, loaded and kept while the block runs.

        Waits for a load, for the users of another context window to end, or for neither. A cancel
        while loading keeps nothing.

        Parameters
        ----------
        num_ctx
            Context window, tokens; None: the brain's default, *not* the one in force, as in Ollama.
        keep_ns
            None: what was given last, or the default at a load.

        Raises
        ------
        Refused
            503 when too many wait for a load; what the brain's load raises.
        """
        wanted = min(num_ctx or self._brain.default_num_ctx, model.context_length)
        resident = self._held.get(model.name)
        if resident is None or resident.num_ctx != wanted or resident.leaving or resident.lost:
            resident = await self._load(model, wanted, keep_ns)
        else:
            resident.users += 1
        if keep_ns is not None:
            resident.keep_ns = keep_ns
        self._hold(resident)
        try:
            yield resident
        finally:
            self._release(resident)

    def unload(self, model: Model) -> None:
        """Let the model go as soon as it is idle; returns at once."""
        resident = self._held.get(model.name)
        if resident is not None:
            resident.keep_ns = 0
            if not resident.users:
                self._release_timer(resident)

    def lose(self, name: str) -> None:
        """
        The runner of this model is dead; it shows until the next request, which loads it again.
        """
        if name in self._held:
            self._held[name].lost = True

    async def close(self) -> None:
        """Forget every model and stop the timers; the brain frees them in its own close."""
        for resident in self._held.values():
            if resident.timer:
                resident.timer.cancel()
        self._held.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self, model: Model, num_ctx: int, keep_ns: int | None) -> Resident:
        if self._waiting >= self._queue:
            raise Refused(503, "server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        try:
            async with self._lock:
                return await self._load_locked(
                    model, num_ctx, KEEP_NS if keep_ns is None else keep_ns
                )
        finally:
            self._waiting -= 1

    async def _load_locked(self, model: Model, num_ctx: int, keep_ns: int) -> Resident:
        resident = self._held.get(model.name)
        if resident is not None and (resident.lost or resident.num_ctx != num_ctx):
            await self._evict(resident)
            resident = None
        if resident is None:
            size = await self._brain.load(model, num_ctx)
            self.loads += 1
            slots = asyncio.Semaphore(self._brain.slots)
            resident = Resident(
                model=model, num_ctx=num_ctx, size_bytes=size, keep_ns=keep_ns, slots=slots
            )
            self._held[model.name] = resident
        resident.users += 1
        return resident

    async def _evict(self, resident: Resident) -> None:
        resident.leaving = True
        try:
            if resident.users:
                await resident.idle.wait()
        finally:
            resident.leaving = False
        await self._drop(resident)

    async def _drop(self, resident: Resident) -> None:
        """Forget first, then free: whoever comes in between must load anew."""
        if resident.timer:
            resident.timer.cancel()
        self._held.pop(resident.model.name, None)
        self._going.append(resident)
        try:
            await self._brain.unload(resident.model)
        finally:
            self._going.remove(resident)

    def _hold(self, resident: Resident) -> None:
        resident.idle.clear()
        if resident.timer:
            resident.timer.cancel()
            resident.timer = None
        resident.touch()

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        if resident.users:
            return
        resident.idle.set()
        if resident is self._held.get(resident.model.name):
            self._release_timer(resident)

    def _release_timer(self, resident: Resident) -> None:
        resident.touch()
        if resident.timer:
            resident.timer.cancel()
        if resident.keep_ns < FOREVER_NS:
            loop = asyncio.get_running_loop()
            resident.timer = loop.call_later(resident.keep_ns / 1e9, self._expire, resident)

    def _expire(self, resident: Resident) -> None:
        task = asyncio.ensure_future(self._expire_locked(resident))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire_locked(self, resident: Resident) -> None:
        async with self._lock:
            # Timers may fire a little early
            due = time.time_ns() >= resident.expires_ns - 10**7 or resident.keep_ns == 0
            if due and not resident.users and resident is self._held.get(resident.model.name):
                await self._drop(resident)
