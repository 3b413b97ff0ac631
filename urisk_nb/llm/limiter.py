"""How many calls are in flight at once, whose turn it is, and their end at the shutdown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import anyio

from urisk_nb.errors import ServerConnectionLost

__all__ = ["CallLimiter"]


class CallLimiter:
    """
    The calls in flight, at most so many at once; used on one loop.

    Parameters
    ----------
    usual
        How many may be in flight while no run asks for more.
    """

    def __init__(self, usual: int) -> None:
        self._limiter = anyio.CapacityLimiter(usual)
        self._usual = usual
        self._wanted: list[int] = []  # what the runs that last have asked for
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[Any]] = set()  # by the shutdown

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""
        return int(self._limiter.total_tokens)

    @property
    def in_flight(self) -> int:
        """How many calls of this process the server is working on."""
        return int(self._limiter.borrowed_tokens)

    @property
    def waiting(self) -> int:
        """How many calls wait here for their turn."""
        return self._limiter.statistics().tasks_waiting

    def set_usual(self, usual: int) -> None:
        """Change how many may be in flight while no run asks for more."""
        self._usual = usual
        self._limiter.total_tokens = max(usual, *self._wanted, 1)

    @contextlib.contextmanager
    def allow(self, least: int | None) -> Iterator[None]:
        """Let at least so many calls be in flight while this lasts; None asks for nothing."""
        if least is None:
            yield
            return
        self._wanted.append(least)
        self.set_usual(self._usual)
        try:
            yield
        finally:
            self._wanted.remove(least)
            self.set_usual(self._usual)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold one of the places for calls in flight; those who wait are served in order."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())  # a coroutine runs in a task
        self._tasks.add(task)
        try:
            async with self._limiter:
                yield
        except asyncio.CancelledError as exc:
            # By the shutdown alone: the caller has not cancelled it, too
            if task in self._cancelled and task.uncancel() == 0:
                raise ServerConnectionLost(
                    "the session was shut down during the call.", fix="%urisk_start, then ask again"
                ) from exc
            raise
        finally:
            self._tasks.discard(task)

    async def cancel_all(self, within_s: float) -> None:
        """Cancel the calls in flight and those that wait, and wait for their ends."""
        others = {task for task in self._tasks if task is not asyncio.current_task()}
        # Once: a second cancel would look like one of the caller's own
        for task in others - self._cancelled:
            task.cancel()
        self._cancelled |= others
        if others:
            await asyncio.wait(others, timeout=within_s)
