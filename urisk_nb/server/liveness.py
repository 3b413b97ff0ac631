"""The liveness monitor: while every call to a server is silent, the server is probed; one that does
not answer the probes is given up.

Knows calls and silence. Does not know what a server is: the owner of the monitor says how to probe
it and how to give it up. Costs nothing while no call runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import anyio

from urisk_nb.errors import ServerConnectionLost, ServerError

__all__ = ["CallHeartbeat", "LivenessMonitor", "ProbeSchedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSchedule:
    """How long a server may be silent under a call, and how it is probed then; seconds."""

    silent_s: float = 10.0
    every_s: float = 5.0
    within_s: float = 2.0
    strikes: int = 3


class CallHeartbeat:
    """
    One call as the monitor sees it: when it last received something, and how it is cut off from a
    server that hangs.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()
        self._scope: anyio.CancelScope | None = None
        self._error: ServerError | None = None

    def beat(self) -> None:
        """Note that something has arrived."""
        self.at = time.monotonic()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Let the monitor end what runs inside; the monitor's error is raised then."""
        with anyio.CancelScope() as self._scope:
            yield
        if self._scope.cancelled_caught:
            raise self._error or ServerConnectionLost("the call was cut off.", fix="ask again")

    def cut(self, error: ServerError) -> None:
        """End the call with the error."""
        self._error = error
        if self._scope is not None:
            self._scope.cancel()


class LivenessMonitor:
    """
    Watches all calls to one server; used on one loop.

    Parameters
    ----------
    answers
        Probes the server, over a connection apart from the calls; returns whether it answered.
    give_up
        Awaited after as many probes without an answer as the schedule allows.
    """

    def __init__(
        self, answers: Callable[[], Awaitable[bool]], give_up: Callable[[], Awaitable[None]]
    ) -> None:
        self.schedule = ProbeSchedule()
        self._answers, self._give_up = answers, give_up
        self._heartbeats: set[CallHeartbeat] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def call(self) -> Iterator[CallHeartbeat]:
        """Watch a call while it is in flight."""
        heartbeat = CallHeartbeat()
        self._heartbeats.add(heartbeat)
        if self._task is None or self._task.done():
            # An empty context: the task outlives the cell that happened to start it.
            self._task = asyncio.get_running_loop().create_task(
                self._probe(), context=contextvars.Context()
            )
        try:
            yield heartbeat
        finally:
            self._heartbeats.discard(heartbeat)
            if not self._heartbeats:
                self.stop()

    async def _probe(self) -> None:
        strikes = 0
        while self._heartbeats:
            silent_s = time.monotonic() - max(heartbeat.at for heartbeat in self._heartbeats)
            if silent_s < self.schedule.silent_s:
                strikes = 0
                await asyncio.sleep(self.schedule.silent_s - silent_s)
                continue
            strikes = 0 if await self._answers() else strikes + 1
            if strikes >= self.schedule.strikes:
                strikes = 0
                await self._give_up()
            await asyncio.sleep(self.schedule.every_s)

    def cut(self, error: ServerError) -> None:
        """End every call with the error."""
        for heartbeat in list(self._heartbeats):
            # A copy for each call: a traceback grows with each raise
            heartbeat.cut(copy.copy(error))

    def stop(self) -> None:
        """Stop the probes, until the next call."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
