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
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from urisk_nb import errors
from urisk_nb.errors import UriskError
from urisk_nb.llm.resilience import MAX_ASKED_S, InRun, retry_rule_for

__all__ = ["MAX_FAILED_IN_ROW", "CallFailed", "Outage", "RunCalls", "is_suspect", "mark_suspect"]

MAX_FAILED_IN_ROW = 5  # calls without an answer, one after the other: the run ends
# Of a call whose failure may be its own: with failures of one kind, and of all kinds. A server may
# be killed by chance just when a call is made again that was lost with a crashed runner.
MAX_ATTEMPTS, MAX_ATTEMPTS_IN_ALL = 2, 4
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 2.0  # between two attempts
CRASH_PAUSE_S = 0.05
PROBE_PAUSE_S = 0.25  # between two looks at a server that does not answer

T = TypeVar("T")
# Travels with the call, to where a server is chosen for it
_IS_SUSPECT: ContextVar[bool] = ContextVar("urisk_suspect", default=False)


def is_suspect() -> bool:
    """Return whether the call that is made here may bring a server down; one is enough."""
    return _IS_SUSPECT.get()


@contextlib.contextmanager
def mark_suspect(suspect: bool) -> Iterator[None]:
    """Make the calls within as ones that may bring a server down, or as ordinary ones."""
    token = _IS_SUSPECT.set(suspect)
    try:
        yield
    finally:
        _IS_SUSPECT.reset(token)


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
        errors.ClusterLost: "the cluster is away",
        errors.WorkerLost: "a worker has ended",
        errors.ServerHung: "the server hangs",
        errors.RunnerCrashed: "the model's process has ended",
    }
    found = (text for kind, text in words.items() if isinstance(error, kind))
    return next(found, "the connection broke")


@dataclass(slots=True, eq=False)
class _Attempts:
    """
    What became of one call so far.

    Attributes
    ----------
    failed
        Attempts of all kinds.
    own
        Those that may be the call's own fault, by kind.
    waiting_s
        Since when it waits for the server, on the monotonic clock.
    incident
        The outage that it may have caused; it is made alone then.
    is_alone
        Whether it keeps the others from being made now.
    """

    failed: int = 0
    own: Counter[type[UriskError]] = field(default_factory=Counter)
    waiting_s: float | None = None
    incident: int | None = None
    is_alone: bool = False

    @property
    def is_used_up(self) -> bool:
        """Whether there is no further attempt."""
        most = max(self.own.values(), default=0)
        return most >= MAX_ATTEMPTS or self.own.total() >= MAX_ATTEMPTS_IN_ALL


class RunCalls:
    """
    The way of every call of a run; used on one loop.

    While the server is away one call alone is in flight, which shows whether it is back. A call
    that may have brought the server down is made once more, and alone: so no other call is lost
    with it, and its second failure can only be its own. The others that were lost with it the
    first time are then free of suspicion.

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
        self._incident = 0  # counts outages
        self._solved: set[int] = set()  # incidents whose cause is known
        self._suspects: list[_Attempts] = []  # calls that are to be made alone
        self._in_flight = 0
        self._is_taken = False  # by a call that is made alone
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
        mine = _Attempts()
        try:
            while True:
                async with self._take_turn(mine):
                    await self._wait_until_up(mine)
                    try:
                        with mark_suspect(mine.incident is not None):
                            answer = await ask()
                    except UriskError as exc:
                        error = exc
                    else:
                        self._set_outage(None)
                        return answer, mine.failed
                    self._note_failure(error, mine)
                await asyncio.sleep(self._pause_s(error, mine.failed))
        finally:
            if mine in self._suspects:
                self._suspects.remove(mine)
            self._wake()

    def _note_failure(self, error: UriskError, mine: _Attempts) -> None:
        """Put a failure down to the server or to the call; raise where it was the last attempt."""
        rule = retry_rule_for(error).in_run
        if rule is InRun.END:
            raise error
        if rule is InRun.ALONE and error.facts.get("ended_from_outside"):
            rule = InRun.WAIT  # somebody restarted the server: no call has brought it down
        self._set_outage(error if rule in (InRun.WAIT, InRun.ALONE) else None)
        mine.failed += 1
        if rule is not InRun.WAIT:
            is_cut = isinstance(error, errors.StreamInterrupted)  # the same, after the first token
            mine.own[errors.ServerConnectionLost if is_cut else type(error)] += 1
        elif mine.waiting_s is None:
            mine.waiting_s = time.monotonic()
        if rule is InRun.SKIP or mine.is_used_up or not self._has_time(mine.waiting_s):
            if rule is InRun.ALONE and mine.incident is not None:
                self._solved.add(mine.incident)
            raise CallFailed(error, mine.failed)
        if rule is InRun.ALONE:
            mine.incident = self._incident
            if mine not in self._suspects:
                self._suspects.append(mine)

    # Turns ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _take_turn(self, mine: _Attempts) -> AsyncIterator[None]:
        """Wait until the call may be made, in company or alone."""
        while not self._may_go(mine):
            await self._changed.wait()
        mine.is_alone = self._is_taken = mine.incident is not None or self._outage is not None
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._let_others_go(mine)

    def _may_go(self, mine: _Attempts) -> bool:
        if mine.incident in self._solved:
            mine.incident = None
            mine.own.clear()
            self._suspects.remove(mine)
            self._wake()
        if self._is_taken:
            return False
        if mine.incident is not None or self._outage is not None:
            return self._in_flight == 0
        return not self._suspects

    def _let_others_go(self, mine: _Attempts) -> None:
        if mine.is_alone:
            mine.is_alone = self._is_taken = False
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Outages --------------------------------------------------------------------------------------

    def _set_outage(self, error: UriskError | None) -> None:
        """Note what was seen of the server; an outage goes on until something is answered."""
        before = self._outage
        if error is not None:
            self._incident += before is None
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

    async def _wait_until_up(self, mine: _Attempts) -> None:
        """Return when the server answers; raise CallFailed where the budget is spent before."""
        while (outage := self._outage) is not None:
            if await self._is_up():
                # That a busy server takes calls again is seen by a call alone
                if not isinstance(outage.error, errors.ServerBusy):
                    self._set_outage(None)
                    if mine.incident is None:
                        self._let_others_go(mine)
                return
            if not self._has_time(None):
                raise CallFailed(outage.error, mine.failed)
            await asyncio.sleep(PROBE_PAUSE_S)

    def _pause_s(self, error: UriskError, attempts: int) -> float:
        """
        Return how long to wait before the next attempt: with full jitter, or as long as the server
        asks for, within the budget.
        """
        if isinstance(error, errors.RunnerCrashed):
            return CRASH_PAUSE_S  # whether it is back is asked then
        most_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**attempts)
        wish_s = min(float(error.facts.get("retry_after_s") or 0.0), MAX_ASKED_S)
        since_s = self._outage.since_s if self._outage is not None else time.monotonic()
        left_s = max(0.0, since_s + self._budget_s() - time.monotonic())
        return max(random.uniform(0, most_s), min(wish_s, left_s))  # noqa: S311  jitter
