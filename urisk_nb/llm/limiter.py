"""How many calls are in flight at once, whose turn it is, and their end at the shutdown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import anyio

from urisk_nb.errors import ServerConnectionLost

__all__ = ["CallLimiter", "WantedParallel"]


class WantedParallel:
    """
    How many parallel calls the active runs ask for.

    Parameters
    ----------
    apply
        Called when a run begins or ends.
    """

    def __init__(self, apply: Callable[[], object]) -> None:
        self._apply = apply
        self._numbers: list[int] = []

    @property
    def most(self) -> int:
        """The largest number that an active run asks for; 0 if none does."""
        return max(self._numbers, default=0)

    @contextlib.contextmanager
    def hold(self, number: int | None) -> Iterator[None]:
        """Count the number of a run within this context; None: it asks for none."""
        if number is None:
            yield
            return
        self._numbers.append(number)
        self._apply()
        try:
            yield
        finally:
            self._numbers.remove(number)
            self._apply()


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
        self._wanted = WantedParallel(lambda: self.set_usual(self._usual))
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
        self._limiter.total_tokens = max(usual, self._wanted.most, 1)

    def allow(self, least: int | None) -> AbstractContextManager[None]:
        """Let at least so many calls be in flight while this lasts; None asks for nothing."""
        return self._wanted.hold(least)

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
