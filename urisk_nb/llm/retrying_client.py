"""
One call with all its attempts: it waits for its turn, is admitted by the breaker, watched while it
is silent, and tried again until its first token.

The calls of a run have one attempt here: what comes after a failure is decided in `run_calls`,
which knows the run's other calls.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import (
    ModelNotFound,
    PortTaken,
    RunnerCrashed,
    ServerConnectionLost,
    ServerHung,
    ServerNotRunning,
    ServerTimeout,
    StreamInterrupted,
    UriskError,
)
from urisk_nb.llm.calls import CallRecord
from urisk_nb.llm.client import Client, OnChunk
from urisk_nb.llm.limiter import CallLimiter
from urisk_nb.llm.messages import Chunk, Final
from urisk_nb.llm.resilience import Attempts, Breaker
from urisk_nb.server.model_server import Server

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Exchange", "RetryingClient", "is_single_attempt", "single_attempts"]

# What the end of a server looks like to a call.
SERVER_ENDS = (RunnerCrashed, ServerConnectionLost, ServerNotRunning, StreamInterrupted)
Exchange = Callable[[OnChunk], Awaitable[Final]]
"""One attempt: asks the server, hands chunks over as they come, returns the end."""

# Travels with the tasks of a run: what else is asked meanwhile, by other cells and threads, keeps
# its own attempts.
_IS_SINGLE: ContextVar[bool] = ContextVar("urisk_single_attempts", default=False)


@contextlib.contextmanager
def single_attempts() -> Iterator[None]:
    """
    Make each call within once, whatever the breaker says; a model that has gone is still pulled.

    For a run, which has more patience than a call and its own way with failures. The breaker still
    hears how each call ends, so that others leave a broken server alone.
    """
    token = _IS_SINGLE.set(True)
    try:
        yield
    finally:
        _IS_SINGLE.reset(token)


def is_single_attempt() -> bool:
    """Return whether the caller has its own way with failures, and shows no text before the end."""
    return _IS_SINGLE.get()


class RetryingClient:
    """
    The way of every call to the server; used on one loop.

    Parameters
    ----------
    client, server
        Who is asked, and through what.
    limiter
        How many calls may be in flight.
    ensure_model
        Awaited for a model that has gone: it is pulled and loaded again.
    is_one_of_several
        Whether another server may be asked in place of a second attempt.

    Attributes
    ----------
    breakers
        Each model's own breaker.
    """

    def __init__(
        self,
        client: Client,
        server: Server,
        limiter: CallLimiter,
        ensure_model: Callable[[str], Awaitable[Any]],
        *,
        is_one_of_several: bool = False,
    ) -> None:
        self._client, self._server, self._limiter = client, server, limiter
        self._is_one_of_several = is_one_of_several
        self._ensure_model = ensure_model
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    async def run(self, record: CallRecord, exchange: Exchange, on_chunk: OnChunk) -> Final:
        """
        Return the end of the answer; retry until the first chunk, never after.

        Parameters
        ----------
        record
            Notes attempts and chunks.
        exchange
            One attempt.
        on_chunk
            Called with each chunk.
        """
        async with self._admit(record):
            with self._server.track_call() as heartbeat:

                def take(chunk: Chunk | Final) -> None:
                    heartbeat.beat()
                    record.add_chunk(chunk)
                    on_chunk(chunk)

                attempts = Attempts(
                    self._client.settings.max_retries,
                    partial(self._repair, record),
                    may_retry=partial(self._may_retry, record),
                )
                async for attempt in attempts:
                    with attempt:
                        await self._server.ready()
                        record.mark_sent()
                        with _keep_text(record), heartbeat.guard():
                            return await exchange(take)
        raise AssertionError("retrying ends with a value or an error")  # pragma: no cover

    def _may_retry(self, record: CallRecord, error: BaseException | None) -> bool:
        is_tried_elsewhere = self._is_one_of_several or _IS_SINGLE.get()
        return record.first_s is None and (
            not is_tried_elsewhere or isinstance(error, ModelNotFound)
        )

    @contextlib.asynccontextmanager
    async def _admit(self, record: CallRecord) -> AsyncIterator[None]:
        """
        Wait for the turn of a call, and tell the breaker how it ends; with all its attempts it is
        one call.
        """
        async with self._limiter.hold():
            record.mark_started()
            breaker, began_s = self.breakers[record.model], time.monotonic()
            trial = not _IS_SINGLE.get() and breaker.admit(began_s)
            try:
                if trial:
                    await self._server.ready()
                    await self._check_answers()
                yield
            except Exception as exc:
                if isinstance(exc, SERVER_ENDS) and await self._ended_on_request(exc, began_s):
                    breaker.record_cancel(trial=trial)
                else:
                    breaker.record_failure(exc, time.monotonic(), trial=trial)
                raise
            except BaseException:
                breaker.record_cancel(trial=trial)
                raise
            breaker.record_success()

    async def _ended_on_request(self, error: UriskError, began_s: float) -> bool:
        """
        Return whether the server ended since then because one of its users restarted it; note on
        the error whether anybody ended it.
        """
        await self._server.wait_for_exit_news()
        error.facts["ended_from_outside"] = self._server.ended_from_outside_since(began_s)
        return self._server.ended_on_request_since(began_s)

    async def _check_answers(self) -> None:
        """Find out a server that hangs in seconds, not after the load timeout."""
        try:
            await self._client.probe()
        except (ServerTimeout, PortTaken) as exc:
            raise ServerHung(exc.message, fix="restart it, or %urisk_start") from exc

    async def _repair(self, record: CallRecord, state: RetryCallState) -> None:
        """Do what the next attempt needs: a model that has gone is pulled again."""
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            record.mark_retry(error)
        if isinstance(error, ModelNotFound):
            await self._ensure_model(record.model)
        elif isinstance(error, ServerConnectionLost | ServerNotRunning):
            await self._server.wait_for_exit_news()


@contextlib.contextmanager
def _keep_text(record: CallRecord) -> Iterator[None]:
    """Keep the text of an answer whose server hangs in the middle of it."""
    try:
        yield
    except ServerHung as exc:
        if record.first_s is None:
            raise
        text = record.answer
        message = f"the answer was cut off after {len(text)} characters: {exc.message}"
        raise StreamInterrupted(message, fix=exc.fix, partial=text) from exc
