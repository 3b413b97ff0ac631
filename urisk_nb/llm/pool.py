"""
The servers of a session, and the choice of a server for each call.

Calls start in order, and each goes to the server with the most free places. A server that fails is
left out: its calls move to another one at once, unless their caller has seen text. It is used again
once it answers a probe and has the same model in memory. Until then it is checked in growing
pauses, while the session is used.

With a single server none of this happens. Over 400 lines: free places and absent servers depend on
each other, so they are read together.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from urisk_nb.errors import (
    CircuitOpen,
    OutOfMemory,
    RunnerCrashed,
    ServerBusy,
    ServerConnectionLost,
    ServerHung,
    ServerInternalError,
    ServerNotRunning,
    ServerTimeout,
    StreamInterrupted,
    UriskError,
)
from urisk_nb.llm.calls import CallRecord
from urisk_nb.llm.client import OnChunk
from urisk_nb.llm.endpoint import Endpoint
from urisk_nb.llm.limiter import WantedParallel
from urisk_nb.llm.messages import Final
from urisk_nb.llm.resilience import MAX_ASKED_S, Attempts, InRun, retry_rule_for
from urisk_nb.llm.retrying_client import Exchange, is_single_attempt
from urisk_nb.llm.run_calls import is_suspect

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Absence", "EndpointPool", "share_out"]

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # before a failed server is checked again
GLANCE_S = 0.3  # longest check of absent servers if another one is present
IDLE_S = 60.0  # after so long without a call, checks stop until the next call
# Errors that leave a server out: they say nothing about the call, or concern this server alone
LEAVES = (
    *(ServerNotRunning, ServerConnectionLost, ServerHung, ServerBusy, ServerTimeout),
    *(RunnerCrashed, CircuitOpen, OutOfMemory, StreamInterrupted),
)
# Errors after which a call moves to another server. After a timeout the call has no time left
MOVES = (
    *(ServerNotRunning, ServerConnectionLost, ServerHung, ServerBusy, RunnerCrashed),
    *(CircuitOpen, OutOfMemory, StreamInterrupted, ServerInternalError),
)
MAX_CRASHED = 2  # servers that one call may crash before it is made alone

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """
    Why a server is left out, since when, and when it is checked again (monotonic clock).
    """

    error: UriskError
    since_s: float
    until_s: float

    def describe(self, url: str) -> str:
        """Return why this server is left out, without its address: the caller has named it."""
        return self.error.message.removeprefix(f"{url}: ").replace(f" at {url}", "")


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for a place, and the servers that have failed it."""

    place: asyncio.Future[Endpoint]
    avoid: Collection[Endpoint] = field(default=())


class EndpointPool:
    """
    The servers of a session, with a limit on calls in flight over all of them; used on one loop.

    Parameters
    ----------
    endpoints
        The servers, in the order in which they were named.
    admit
        Awaited before a server is used again; raises if it cannot be used yet.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], admit: Callable[[Endpoint], Awaitable[object]]
    ) -> None:
        self.endpoints, self._admit = tuple(endpoints), admit
        self.absences: dict[Endpoint, Absence] = {}
        self._pauses_s: dict[Endpoint, float] = {}  # the next pause; kept until a call succeeds
        self._held: Counter[Endpoint] = Counter()
        self._queue: deque[_Waiter] = deque()
        self._watches: dict[Endpoint, asyncio.Task[None]] = {}
        self._checks: dict[Endpoint, asyncio.Task[None]] = {}
        self._usual: int | None = None  # calls in flight over all servers; None: their slots
        self._wanted = WantedParallel(self._share_places)
        self._used_s = time.monotonic()
        self._is_closed = False

    # Present servers ------------------------------------------------------------------------------

    @property
    def is_single(self) -> bool:
        """Whether there is only one server."""
        return len(self.endpoints) == 1

    @property
    def present(self) -> tuple[Endpoint, ...]:
        """The servers that are in use."""
        return tuple(one for one in self.endpoints if one not in self.absences)

    @property
    def lead(self) -> Endpoint:
        """The server that represents all: the first present one, else the first."""
        return next(iter(self.present), self.endpoints[0])

    async def each(self, action: Callable[[Endpoint], Awaitable[T]]) -> dict[Endpoint, T]:
        """
        Run an action on each present server and return the results; leave out those that fail.

        Raises
        ------
        UriskError
            Every server failed, or one failed in a way that leaving it out would hide.
        """
        asked = self.present or self.endpoints
        if self.is_single:
            return {asked[0]: await action(asked[0])}
        found = await asyncio.gather(*map(action, asked), return_exceptions=True)
        given: dict[Endpoint, T] = {}
        for endpoint, result in zip(asked, found, strict=True):
            if not isinstance(result, BaseException):
                given[endpoint] = result
            elif isinstance(result, LEAVES):
                self._leave_out(endpoint, result)
            else:
                raise result
        if not given:
            raise self._build_away_error()
        return given

    # Places ---------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """How many calls may be in flight if every server is present."""
        slots = sum(endpoint.server.slots for endpoint in self.endpoints)
        return max(slots if self._usual is None else self._usual, self._wanted.most, 1)

    @property
    def in_flight(self) -> int:
        """How many calls of this process the servers are answering."""
        return sum(endpoint.limiter.in_flight for endpoint in self.endpoints)

    @property
    def waiting(self) -> int:
        """How many calls are queued in this process."""
        return len(self._queue) + sum(one.limiter.waiting for one in self.endpoints)

    def set_usual(self, usual: int | None) -> None:
        """Set the calls in flight while no run asks for more; None: the slots of all servers."""
        self._usual = usual
        self._share_places()

    def allow(self, least: int | None) -> AbstractContextManager[None]:
        """Allow at least so many calls in flight within this context; None: no change."""
        return self._wanted.hold(least)

    def _share_places(self) -> None:
        """
        Give each server its share of the calls.

        The share of an absent server is not given to others, which would have to queue its calls.
        """
        slots = [endpoint.server.slots for endpoint in self.endpoints]
        is_given = self._usual is not None or self._wanted.most > 0
        shares = share_out(self.limit, slots) if is_given else slots
        for endpoint, share in zip(self.endpoints, shares, strict=True):
            endpoint.limiter.set_usual(share)
        self._dispatch()

    def _find_free(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        """Return the server with the most free places; None: no call may start now."""
        if sum(self._held.values()) >= self.limit:
            return None
        present = self.present
        candidates = [one for one in present if one not in avoid] or present
        free = {one: one.limiter.limit - self._held[one] for one in candidates}
        best = max(free, key=lambda one: free[one], default=None)
        return best if best is not None and free[best] > 0 else None

    @contextlib.asynccontextmanager
    async def _hold_place(self, avoid: Collection[Endpoint]) -> AsyncIterator[Endpoint]:
        """Hold a place at a server; calls are served in order."""
        endpoint = await self._wait_for_place(avoid)
        try:
            yield endpoint
        finally:
            self._release(endpoint)

    async def _wait_for_place(self, avoid: Collection[Endpoint]) -> Endpoint:
        await self._require_server()
        if not self._queue and (endpoint := self._find_free(avoid)) is not None:
            self._held[endpoint] += 1
            return endpoint
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        # Calls that lost their server were served before: they go to the front, in order
        moved = sum(1 for one in self._queue if one.avoid)
        self._queue.insert(moved if avoid else len(self._queue), waiter)
        self._dispatch()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            is_given = waiter.place.done() and not waiter.place.cancelled()
            if is_given and waiter.place.exception() is None:
                self._release(waiter.place.result())
            raise
        finally:
            if waiter in self._queue:
                self._queue.remove(waiter)

    def _release(self, endpoint: Endpoint) -> None:
        self._held[endpoint] -= 1
        self._used_s = time.monotonic()
        self._dispatch()

    def _dispatch(self) -> None:
        """Give the free places to the waiting calls, in order."""
        for waiter in tuple(self._queue):
            if waiter.place.done():
                continue
            endpoint = self._find_free(waiter.avoid)
            if endpoint is not None:
                self._held[endpoint] += 1
                self._queue.remove(waiter)
                waiter.place.set_result(endpoint)
            elif not waiter.avoid:
                return

    # Calls ----------------------------------------------------------------------------------------

    def run(
        self, record: CallRecord, prepare: Callable[[Endpoint], Exchange], on_chunk: OnChunk
    ) -> Awaitable[Final]:
        """
        Return the final message; try another server if one fails before the first chunk.

        Parameters
        ----------
        record
            Records servers, attempts and chunks.
        prepare
            Returns the call encoded for a server.
        on_chunk
            Called with each chunk.
        """
        if self.is_single:
            only = self.endpoints[0]
            return only.retrying.run(record, prepare(only), on_chunk)
        return self._run_on_any(record, prepare, on_chunk)

    async def _run_on_any(
        self, record: CallRecord, prepare: Callable[[Endpoint], Exchange], on_chunk: OnChunk
    ) -> Final:
        """Try the servers; if all are away, retry after a pause, as with a single server."""
        if is_single_attempt():
            return await self._run_once(record, prepare, on_chunk)

        async def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error is not None:
                record.mark_retry(error)

        attempts = Attempts(
            self.lead.settings.max_retries,
            note,
            may_retry=lambda _: record.first_s is None and not self._is_closed,
        )
        async for attempt in attempts:
            with attempt:
                return await self._run_once(record, prepare, on_chunk)
        raise AssertionError("retrying ends with a value or an error")  # pragma: no cover

    async def _run_once(
        self, record: CallRecord, prepare: Callable[[Endpoint], Exchange], on_chunk: OnChunk
    ) -> Final:
        """Try one server after the other, each once, until one answers."""
        failed: dict[Endpoint, UriskError] = {}
        while True:
            async with self._hold_place(failed) as endpoint:
                record.server = endpoint.url
                try:
                    final = await endpoint.retrying.run(record, prepare(endpoint), on_chunk)
                except UriskError as exc:
                    failed[endpoint] = error = exc
                    if isinstance(exc, LEAVES) and not self._is_closed:
                        self._leave_out(endpoint, exc)
                else:
                    self._pauses_s.pop(endpoint, None)
                    return final
            if not self._may_move(record, failed, error):
                raise error if self.present else self._build_away_error(error)
            record.mark_retry(error)
            record.drop_answer()

    def _may_move(
        self, record: CallRecord, failed: dict[Endpoint, UriskError], error: UriskError
    ) -> bool:
        """Return whether a failed call moves to another server at once."""
        if self._is_closed or not isinstance(error, MOVES):
            return False
        if not is_single_attempt() and record.first_s is not None:
            return False  # the caller has seen text
        rules = [retry_rule_for(one).in_run for one in failed.values()]
        max_crashed = 1 if is_suspect() else MAX_CRASHED
        return rules.count(InRun.ALONE) < max_crashed and any(
            one not in failed for one in self.present
        )

    # Servers that are away ------------------------------------------------------------------------

    def _leave_out(self, endpoint: Endpoint, error: UriskError) -> None:
        """Stop using a server until it is back; does nothing if it is left out already."""
        if endpoint in self.absences:
            return
        pause_s = self._pauses_s.get(endpoint, FIRST_PAUSE_S)
        self._pauses_s[endpoint] = min(2 * pause_s, MAX_PAUSE_S)
        asked_s = error.facts.get("retry_after_s") or error.facts.get("left_s") or 0.0
        now = time.monotonic()
        until_s = now + max(pause_s, min(float(asked_s), MAX_ASKED_S))
        self.absences[endpoint] = Absence(error=error, since_s=now, until_s=until_s)
        endpoint.server.note_loss(error)
        self._share_places()
        self._watch_absent_servers()
        if not self.present:
            for waiter in self._queue:
                if not waiter.place.done():
                    waiter.place.set_exception(self._build_away_error())

    def _build_away_error(self, error: UriskError | None = None) -> UriskError:
        """Return the error for a session without a usable server; it names the reason of each."""
        seen = [absence.error for absence in self.absences.values()]
        is_busy = bool(seen) and all(isinstance(one, ServerBusy) for one in seen)
        reasons = "; ".join(
            f"{endpoint.url}: {absence.describe(endpoint.url).rstrip('.')}"
            for endpoint, absence in self.absences.items()
        )
        message = f"none of the {len(self.endpoints)} servers can be used ({reasons})."
        fix = "restart one of them, then %urisk_start"
        if error is None:
            return (ServerBusy if is_busy else ServerNotRunning)(message, fix=fix)
        error = copy.copy(error)  # an absence also holds the original
        error.message, error.args, error.fix = message, (message,), fix
        return error

    async def _require_server(self) -> None:
        """Return if a server can be used; raise if none is back."""
        self._used_s = time.monotonic()
        if self.absences:
            self._watch_absent_servers()
        if not (self.present or await self.is_back()):
            raise self._build_away_error()

    async def is_back(self) -> bool:
        """Return whether a server can be used; if none can, check all of them now."""
        self._used_s = time.monotonic()
        checks = set() if self.present else set(map(self._start_check, self.endpoints))
        while checks and not self.present:  # one may load its model for minutes
            _, checks = await asyncio.wait(checks, return_when=asyncio.FIRST_COMPLETED)
        return bool(self.present)

    async def check(self) -> bool:
        """Probe the present servers; return whether one can be used, as `is_back` does."""

        async def probe(endpoint: Endpoint) -> None:
            try:
                await endpoint.client.probe()
            except UriskError as exc:
                self._leave_out(endpoint, exc)

        await asyncio.gather(*map(probe, self.present))
        due = [one for one, absence in self.absences.items() if absence.until_s <= time.monotonic()]
        if self.present and due:
            await asyncio.wait(set(map(self._start_check, due)), timeout=GLANCE_S)
        return await self.is_back()

    def _watch_absent_servers(self) -> None:
        """Check the absent servers in the background, each with its own pauses."""
        for endpoint in self.absences:
            task = self._watches.get(endpoint)
            if (task is None or task.done()) and not self._is_closed:
                self._watches[endpoint] = asyncio.get_running_loop().create_task(
                    self._await_return(endpoint), context=contextvars.Context()
                )

    async def _await_return(self, endpoint: Endpoint) -> None:
        while (absence := self.absences.get(endpoint)) is not None and self._is_used():
            await asyncio.sleep(max(0.0, absence.until_s - time.monotonic()))
            await asyncio.wait({self._start_check(endpoint)})
            if (absence := self.absences.get(endpoint)) is not None:
                self._postpone(endpoint, absence)

    def _is_used(self) -> bool:
        is_asked = bool(self._queue) or self._held.total() > 0
        return is_asked or time.monotonic() - self._used_s < IDLE_S

    def _postpone(self, endpoint: Endpoint, absence: Absence) -> None:
        pause_s = self._pauses_s.get(endpoint, FIRST_PAUSE_S)
        self._pauses_s[endpoint] = min(2 * pause_s, MAX_PAUSE_S)
        self.absences[endpoint] = replace(absence, until_s=time.monotonic() + pause_s)

    def _start_check(self, endpoint: Endpoint) -> asyncio.Task[None]:
        """Return the running check of a server, shared by all who wait for it, or a new one."""
        task = self._checks.get(endpoint)
        if task is None or task.done():
            task = self._checks[endpoint] = asyncio.get_running_loop().create_task(
                self._check_endpoint(endpoint), context=contextvars.Context()
            )
        return task

    async def _check_endpoint(self, endpoint: Endpoint) -> None:
        """Use a server again if it can be used; otherwise keep the latest error. Never raises."""
        absence = self.absences.get(endpoint)
        if absence is None:
            return
        try:
            await self._admit(endpoint)
        except UriskError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  nobody awaits this: the error is shown instead
            seen = f"it could not be checked: {exc!r}."
            error = ServerNotRunning(seen, fix="report this as a bug of urisk_nb")
        else:
            endpoint.server.note_return()
            del self.absences[endpoint]
            self._share_places()
            return
        endpoint.server.note_loss(error)
        self.absences[endpoint] = replace(absence, error=error)

    # End ------------------------------------------------------------------------------------------

    async def cancel_all(self, within_s: float) -> None:
        """Cancel all calls, in flight and queued, and stop checking servers."""
        self._is_closed = True
        for waiter in self._queue:
            if not waiter.place.done():
                waiter.place.set_exception(
                    ServerConnectionLost(
                        "the session was shut down during the call.",
                        fix="%urisk_start, then ask again",
                    )
                )
        tasks = {*self._watches.values(), *self._checks.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        await asyncio.gather(*(one.limiter.cancel_all(within_s) for one in self.endpoints))


def share_out(total: int, weights: Sequence[int]) -> list[int]:
    """
    Split a total into whole numbers in proportion to the weights, each at least 1.

    Examples
    --------
    >>> share_out(8, [4, 4]), share_out(10, [4, 2, 1]), share_out(1, [4, 4])
    ([4, 4], [6, 3, 1], [1, 1])
    """
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(one) for one in exact]
    by_rest = sorted(range(len(parts)), key=lambda n: parts[n] - exact[n])
    for n in by_rest[: total - sum(parts)]:
        parts[n] += 1
    return [max(1, part) for part in parts]
