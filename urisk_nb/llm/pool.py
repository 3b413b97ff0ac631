"""
The servers of a session, and which of them answers a call.

Each call goes to the server with the most free places, in the order in which the calls were asked.
A server that fails is left out: its calls go to another one at once, unless their caller has seen
text. It comes back when it answers a probe, has its model in memory, and the model is the same.
Until then it is asked in growing pauses, and only while the session is used.

With one server nothing of this happens: a call goes to it as it is. Over 400 lines: who has a place
and who is away decide on each other, and a step that is read without the other is misread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
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
from urisk_nb.llm.messages import Final
from urisk_nb.llm.resilience import MAX_ASKED_S, Attempts, InRun, retry_rule_for
from urisk_nb.llm.retrying_client import Exchange, is_single_attempt
from urisk_nb.llm.run_calls import is_suspect

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Absence", "EndpointPool", "share_out"]

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # before a server that failed is looked at again
GLANCE_S = 0.3  # at servers that are away, where another one is there
IDLE_S = 60.0  # without a call: nothing is looked at until the next one
# What takes a server out of the pool: it says nothing about the call, or about this server alone
LEAVES = (
    *(ServerNotRunning, ServerConnectionLost, ServerHung, ServerBusy, ServerTimeout),
    *(RunnerCrashed, CircuitOpen, OutOfMemory, StreamInterrupted),
)
# What is asked of another server. One that was slow has had its time: the call has none left
MOVES = (
    *(ServerNotRunning, ServerConnectionLost, ServerHung, ServerBusy, RunnerCrashed),
    *(CircuitOpen, OutOfMemory, StreamInterrupted, ServerInternalError),
)
MAX_SUSPICIOUS = 2  # servers that one call may have brought down, before it is made alone

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """
    Why a server is left out, since when, and when it is looked at again (the monotonic clock).
    """

    error: UriskError
    since_s: float
    until_s: float

    def describe(self, url: str) -> str:
        """Return why this server is left out, without its address: the caller has named it."""
        return self.error.message.removeprefix(f"{url}: ").replace(f" at {url}", "")


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for a place, and the servers that have just failed it."""

    place: asyncio.Future[Endpoint]
    avoid: Collection[Endpoint] = field(default=())


class EndpointPool:
    """
    The servers of a session; used on one loop. Counts calls as `CallLimiter` does, over all of
    them.

    Parameters
    ----------
    endpoints
        The servers, in the order in which they were named.
    welcome
        Awaited for a server that comes back; raises where it may not be asked yet.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], welcome: Callable[[Endpoint], Awaitable[object]]
    ) -> None:
        self.endpoints, self._welcome = tuple(endpoints), welcome
        self.absences: dict[Endpoint, Absence] = {}
        self._pauses_s: dict[Endpoint, float] = {}  # the next one; kept until a call has succeeded
        self._held: Counter[Endpoint] = Counter()
        self._queue: deque[_Waiter] = deque()
        self._returns: dict[Endpoint, asyncio.Task[None]] = {}
        self._looks: dict[Endpoint, asyncio.Task[None]] = {}
        self._usual: int | None = None  # calls in flight over all servers; None: their slots
        self._wanted: list[int] = []  # what the runs that last have asked for
        self._used_s = time.monotonic()
        self._is_closed = False

    # Who is there ---------------------------------------------------------------------------------

    @property
    def is_single(self) -> bool:
        """Whether there is one server, so nothing to choose from."""
        return len(self.endpoints) == 1

    @property
    def present(self) -> tuple[Endpoint, ...]:
        """The servers that may be asked."""
        return tuple(one for one in self.endpoints if one not in self.absences)

    @property
    def lead(self) -> Endpoint:
        """The server that speaks for all: the first that may be asked, else the first."""
        return next(iter(self.present), self.endpoints[0])

    async def each(self, action: Callable[[Endpoint], Awaitable[T]]) -> dict[Endpoint, T]:
        """
        Return what an action gives on each server that may be asked; one that fails is left out.

        Raises
        ------
        UriskError
            Every server failed, or one in a way that leaving it out would hide.
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
        """How many calls may be in flight now, were every server there."""
        slots = sum(endpoint.server.slots for endpoint in self.endpoints)
        return max(slots if self._usual is None else self._usual, *self._wanted, 1)

    @property
    def in_flight(self) -> int:
        """How many calls of this process the servers are working on."""
        return sum(endpoint.limiter.in_flight for endpoint in self.endpoints)

    @property
    def waiting(self) -> int:
        """How many calls wait here for their turn."""
        return len(self._queue) + sum(one.limiter.waiting for one in self.endpoints)

    def set_usual(self, usual: int | None) -> None:
        """Change how many may be in flight while no run asks for more; None: the slots of all."""
        self._usual = usual
        self._share_places()

    @contextlib.contextmanager
    def allow(self, least: int | None) -> Iterator[None]:
        """Let at least so many calls be in flight while this lasts; None asks for nothing."""
        if least is None:
            yield
            return
        self._wanted.append(least)
        self._share_places()
        try:
            yield
        finally:
            self._wanted.remove(least)
            self._share_places()

    def _share_places(self) -> None:
        """
        Give each server its part of the calls; the part of one that is away is nobody else's, who
        would have to queue it.
        """
        slots = [endpoint.server.slots for endpoint in self.endpoints]
        is_told = self._usual is not None or bool(self._wanted)
        parts = share_out(self.limit, slots) if is_told else slots
        for endpoint, part in zip(self.endpoints, parts, strict=True):
            endpoint.limiter.set_usual(part)
        self._hand_out()

    def _find_free(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        """Return the server with the most free places; None where no call may go now."""
        if sum(self._held.values()) >= self.limit:
            return None
        present = self.present
        asked = [one for one in present if one not in avoid] or present
        free = {one: one.limiter.limit - self._held[one] for one in asked}
        best = max(free, key=lambda one: free[one], default=None)
        return best if best is not None and free[best] > 0 else None

    @contextlib.asynccontextmanager
    async def _hold_place(self, avoid: Collection[Endpoint]) -> AsyncIterator[Endpoint]:
        """Hold a place at a server; who has waited longest is served first."""
        endpoint = await self._wait_for_place(avoid)
        try:
            yield endpoint
        finally:
            self._give_back(endpoint)

    async def _wait_for_place(self, avoid: Collection[Endpoint]) -> Endpoint:
        await self._require_one()
        if not self._queue and (endpoint := self._find_free(avoid)) is not None:
            self._held[endpoint] += 1
            return endpoint
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        # Calls that lost their server have had their turn: they go before the others, in order
        moved = sum(1 for one in self._queue if one.avoid)
        self._queue.insert(moved if avoid else len(self._queue), waiter)
        self._hand_out()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            is_given = waiter.place.done() and not waiter.place.cancelled()
            if is_given and waiter.place.exception() is None:
                self._give_back(waiter.place.result())
            raise
        finally:
            if waiter in self._queue:
                self._queue.remove(waiter)

    def _give_back(self, endpoint: Endpoint) -> None:
        self._held[endpoint] -= 1
        self._used_s = time.monotonic()
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the free places to those who wait, in order."""
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
        Return the end of an answer; ask another server where one fails before the first chunk.

        Parameters
        ----------
        record
            Notes servers, attempts and chunks.
        prepare
            Returns the call as a server is asked it.
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
        """Ask the servers; where all are away, again after a pause, as one server is asked."""
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
        """Ask one server after the other, each once, until one answers."""
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
        """Return whether a call that failed goes to another server at once."""
        if self._is_closed or not isinstance(error, MOVES):
            return False
        if not is_single_attempt() and record.first_s is not None:
            return False  # the caller has seen text
        rules = [retry_rule_for(one).in_run for one in failed.values()]
        most = 1 if is_suspect() else MAX_SUSPICIOUS
        return rules.count(InRun.ALONE) < most and any(one not in failed for one in self.present)

    # Servers that are away ------------------------------------------------------------------------

    def _leave_out(self, endpoint: Endpoint, error: UriskError) -> None:
        """Ask this server no more until it is back; a second failure is no news."""
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
        self._look_for_returns()
        if not self.present:
            for waiter in self._queue:
                if not waiter.place.done():
                    waiter.place.set_exception(self._build_away_error())

    def _build_away_error(self, error: UriskError | None = None) -> UriskError:
        """Return why no server can be asked: each with what was seen of it, as the last error."""
        seen = [absence.error for absence in self.absences.values()]
        is_busy = bool(seen) and all(isinstance(one, ServerBusy) for one in seen)
        reasons = "; ".join(
            f"{endpoint.url}: {absence.describe(endpoint.url).rstrip('.')}"
            for endpoint, absence in self.absences.items()
        )
        message = f"none of the {len(self.endpoints)} servers can be asked ({reasons})."
        fix = "start one of them again, then %urisk_start"
        if error is None:
            return (ServerBusy if is_busy else ServerNotRunning)(message, fix=fix)
        error = copy.copy(error)  # it is the reason of an absence, too
        error.message, error.args, error.fix = message, (message,), fix
        return error

    async def _require_one(self) -> None:
        """Return when a server may be asked; raise where none is back."""
        self._used_s = time.monotonic()
        if self.absences:
            self._look_for_returns()
        if not (self.present or await self.is_back()):
            raise self._build_away_error()

    async def is_back(self) -> bool:
        """Return whether a server may be asked; where none may, all are looked at now."""
        self._used_s = time.monotonic()
        looks = set() if self.present else set(map(self._look, self.endpoints))
        while looks and not self.present:  # one may load its model for minutes
            _, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        return bool(self.present)

    async def check(self) -> bool:
        """Probe the servers that may be asked; return whether there is one, as `is_back` does."""

        async def probe(endpoint: Endpoint) -> None:
            try:
                await endpoint.client.probe()
            except UriskError as exc:
                self._leave_out(endpoint, exc)

        await asyncio.gather(*map(probe, self.present))
        due = [one for one, absence in self.absences.items() if absence.until_s <= time.monotonic()]
        if self.present and due:
            await asyncio.wait(set(map(self._look, due)), timeout=GLANCE_S)
        return await self.is_back()

    def _look_for_returns(self) -> None:
        """Look for the servers that are away, each in its own pauses."""
        for endpoint in self.absences:
            task = self._returns.get(endpoint)
            if (task is None or task.done()) and not self._is_closed:
                self._returns[endpoint] = asyncio.get_running_loop().create_task(
                    self._await_return(endpoint), context=contextvars.Context()
                )

    async def _await_return(self, endpoint: Endpoint) -> None:
        while (absence := self.absences.get(endpoint)) is not None and self._is_used():
            await asyncio.sleep(max(0.0, absence.until_s - time.monotonic()))
            await asyncio.wait({self._look(endpoint)})
            if (absence := self.absences.get(endpoint)) is not None:
                self._postpone(endpoint, absence)

    def _is_used(self) -> bool:
        is_asked = bool(self._queue) or self._held.total() > 0
        return is_asked or time.monotonic() - self._used_s < IDLE_S

    def _postpone(self, endpoint: Endpoint, absence: Absence) -> None:
        pause_s = self._pauses_s.get(endpoint, FIRST_PAUSE_S)
        self._pauses_s[endpoint] = min(2 * pause_s, MAX_PAUSE_S)
        self.absences[endpoint] = replace(absence, until_s=time.monotonic() + pause_s)

    def _look(self, endpoint: Endpoint) -> asyncio.Task[None]:
        """Return the look at a server that is under way, for all who wait for it, or a new one."""
        task = self._looks.get(endpoint)
        if task is None or task.done():
            task = self._looks[endpoint] = asyncio.get_running_loop().create_task(
                self._look_at(endpoint), context=contextvars.Context()
            )
        return task

    async def _look_at(self, endpoint: Endpoint) -> None:
        """Take a server back if it is well; else note what is seen of it now. Never raises."""
        absence = self.absences.get(endpoint)
        if absence is None:
            return
        try:
            await self._welcome(endpoint)
        except UriskError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  nobody awaits this: it is shown instead
            error = ServerNotRunning(f"it could not be looked at: {exc!r}.", fix="report it")
        else:
            endpoint.server.note_return()
            del self.absences[endpoint]
            self._share_places()
            return
        endpoint.server.note_loss(error)
        self.absences[endpoint] = replace(absence, error=error)

    # End ------------------------------------------------------------------------------------------

    async def cancel_all(self, within_s: float) -> None:
        """Cancel the calls in flight and those that wait, and look for no server any more."""
        self._is_closed = True
        for waiter in self._queue:
            if not waiter.place.done():
                waiter.place.set_exception(
                    ServerConnectionLost(
                        "the session was shut down during the call.",
                        fix="%urisk_start, then ask again",
                    )
                )
        looks = {*self._returns.values(), *self._looks.values()}
        for task in looks:
            task.cancel()
        if looks:
            await asyncio.wait(looks, timeout=within_s)
        await asyncio.gather(*(one.limiter.cancel_all(within_s) for one in self.endpoints))


def share_out(total: int, weights: Sequence[int]) -> list[int]:
    """
    Return whole parts of a total, as near to the weights as they can be, each at least 1.

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
