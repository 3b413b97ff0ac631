"""
The calls of one run: a server that is away is waited for, a call that failed is made once more, and
the run goes on with the others.

Knows: whom a failure is put down to, the server or the one call. `resilience.RETRY_RULES` has the
rule of each error. Does not know what is asked, or how.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from urisk_nb import errors
from urisk_nb.errors import UriskError
from urisk_nb.llm.resilience import MAX_ASKED_S, InRun, retry_rule_for

__all__ = ["MAX_FAILED_IN_ROW", "CallFailed", "Outage", "RunCalls"]

MAX_FAILED_IN_ROW = 5  # calls without an answer, one after the other: the run ends
MAX_ATTEMPTS = 2  # of a call whose failure may be its own
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 2.0  # between two attempts
PROBE_PAUSE_S = 0.25  # between two looks at a server that does not answer

T = TypeVar("T")


class CallFailed(Exception):
    """
    One call has failed for good, and the run may go on with the others.

    Attributes
    ----------
    error
        The last failure.
    attempts
        How often the call was made.
    """

    def __init__(self, error: UriskError, attempts: int) -> None:
        super().__init__(str(error))
        self.error, self.attempts = error, attempts


@dataclass(frozen=True, slots=True)
class Outage:
    """
    A server that is away: what was seen last, and since when (the monotonic clock of this process).

    As a str it is a line for people: "the server answers 503, waiting (12 s)".
    """

    error: UriskError
    since_s: float

    def __str__(self) -> str:
        waited_s = time.monotonic() - self.since_s
        return f"{_describe(self.error)}, waiting ({waited_s:.0f} s)"


def _describe(error: UriskError) -> str:
    """Return a few words for what is seen of the server."""
    status = error.facts.get("status")
    if isinstance(error, errors.ServerBusy | errors.ServerConnectionLost) and status:
        return f"the server answers {status}"
    words: dict[type[UriskError], str] = {
        errors.ServerBusy: "the server is busy",
        errors.ServerNotRunning: "nothing answers",
        errors.ServerHung: "the server hangs",
        errors.RunnerCrashed: "the model's process has ended",
    }
    return next((text for kind, text in words.items() if isinstance(error, kind)), "no connection")


class RunCalls:
    """
    The way of every call of a run; used on one loop.

    While the server is away one call alone is in flight, which shows whether it is back. A call
    that may have brought the server down is made once more, and alone. So no other call is lost
    with it, and its second failure can only be its own.

    Parameters
    ----------
    budget_s
        How long one outage is waited for.
    is_up
        Awaited while the server is away; says whether it answers again, with its model in memory.
        What it raises ends the run.
    on_outage
        Called when an outage begins and, with None, when it is over.
    """

    def __init__(
        self,
        budget_s: Callable[[], float],
        is_up: Callable[[], Awaitable[bool]],
        on_outage: Callable[[Outage | None], object] = lambda _: None,
    ) -> None:
        self._budget_s, self._is_up, self._on_outage = budget_s, is_up, on_outage
        self._outage: Outage | None = None
        self._in_flight = 0
        self._is_taken = False  # by a call that is made alone
        self._suspects = 0  # calls that are to be made alone
        self._changed = asyncio.Event()

    async def call(self, ask: Callable[[], Awaitable[T]]) -> tuple[T, int]:
        """
        Return the answer, and how many attempts failed before.

        Raises
        ------
        CallFailed
            There is no answer to this call.
        UriskError
            The run cannot go on.
        """
        own, attempts, waiting_s = 0, 0, None
        is_suspect = False
        try:
            while True:
                async with self._take_turn(is_suspect=is_suspect):
                    await self._wait_until_up(attempts)
                    try:
                        answer = await ask()
                    except UriskError as exc:
                        error, rule = exc, retry_rule_for(exc).in_run
                    else:
                        self._set_outage(None)
                        return answer, attempts
                    if rule is InRun.END:
                        raise error
                    is_away = rule in (InRun.WAIT, InRun.ALONE)
                    self._set_outage(error if is_away else None)
                attempts += 1
                own += rule is not InRun.WAIT
                if waiting_s is None and rule is InRun.WAIT:
                    waiting_s = time.monotonic()
                if rule is InRun.SKIP or own >= MAX_ATTEMPTS or not self._has_time(waiting_s):
                    raise CallFailed(error, attempts)
                if rule is InRun.ALONE and not is_suspect:
                    is_suspect = True
                    self._suspects += 1
                await asyncio.sleep(self._pause_s(error, attempts))
        finally:
            self._suspects -= is_suspect
            self._wake()

    # Turns ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _take_turn(self, *, is_suspect: bool) -> AsyncIterator[None]:
        """Wait until the call may be made, in company or alone."""
        while not self._may_go(is_suspect=is_suspect):
            await self._changed.wait()
        is_alone = self._is_taken = is_suspect or self._outage is not None
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            if is_alone:
                self._is_taken = False
            self._wake()

    def _may_go(self, *, is_suspect: bool) -> bool:
        if self._is_taken:
            return False
        if is_suspect or self._outage is not None:
            return self._in_flight == 0
        return self._suspects == 0

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Outages --------------------------------------------------------------------------------------

    def _set_outage(self, error: UriskError | None) -> None:
        """Note what was seen of the server; an outage goes on until something is answered."""
        before = self._outage
        if error is not None:
            self._outage = Outage(error, before.since_s if before else time.monotonic())
        elif before is not None:
            self._outage = None
        if self._outage is not before:
            self._on_outage(self._outage)
            self._wake()

    def _has_time(self, own_since_s: float | None) -> bool:
        """Return whether an outage, and the wait of one call, may go on."""
        since = [self._outage.since_s] if self._outage is not None else []
        since += [own_since_s] if own_since_s is not None else []
        return all(time.monotonic() - one < self._budget_s() for one in since)

    async def _wait_until_up(self, attempts: int) -> None:
        """Return when the server answers; raise CallFailed where the budget is spent before."""
        while (outage := self._outage) is not None:
            if await self._is_up():
                # That a busy server takes calls again is seen by a call alone
                if not isinstance(outage.error, errors.ServerBusy):
                    self._set_outage(None)
                return
            if not self._has_time(None):
                raise CallFailed(outage.error, attempts)
            await asyncio.sleep(PROBE_PAUSE_S)

    def _pause_s(self, error: UriskError, attempts: int) -> float:
        """
        Return how long to wait before the next attempt: with full jitter, or as long as the server
        asks for, within the budget.
        """
        most_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**attempts)
        wish_s = min(float(error.facts.get("retry_after_s") or 0.0), MAX_ASKED_S)
        since_s = self._outage.since_s if self._outage is not None else time.monotonic()
        left_s = max(0.0, since_s + self._budget_s() - time.monotonic())
        return max(random.uniform(0, most_s), min(wish_s, left_s))  # noqa: S311  jitter
