"""
One call, with all its tries: admitted by the breaker, watched while it is silent, tried again until
its first token and never after.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
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
)
from urisk_nb.llm import wire
from urisk_nb.llm.calls import CallRecord
from urisk_nb.llm.client import Client
from urisk_nb.llm.resilience import Breaker, retrying
from urisk_nb.server.liveness import CallHeartbeat
from urisk_nb.server.model_server import Server

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RetryingClient"]

# What the end of a server looks like to a call
ENDS = (RunnerCrashed, ServerConnectionLost, ServerNotRunning, StreamInterrupted)
Reply = AsyncGenerator[wire.Piece | wire.Final, None]


class RetryingClient:
    """
    The way of every call to the server; used on one loop.

    Parameters
    ----------
    client, server
        Who is asked, and through what.
    take
        Awaited for a model that has gone: it is pulled and loaded again.
    """

    def __init__(
        self, client: Client, server: Server, take: Callable[[str], Awaitable[Any]]
    ) -> None:
        self._client, self._server, self._take = client, server, take
        self._breakers: dict[str, Breaker] = {}

    def breaker(self, model: str) -> Breaker:
        """The model's own."""
        return self._breakers.setdefault(model, Breaker())

    async def stream_reply(self, record: CallRecord, max_retries: int) -> Reply:
        """
        The pieces; tries again until the first of them, never after, and notes its tries in the
        record.
        """
        async with self._admitted(record.model):
            with self._server.track_call() as heartbeat:
                async for attempt in retrying(max_retries, self._between_tries(record)):
                    with attempt:
                        reply, first = await self._begun(record, heartbeat)
                async with aclosing(reply):
                    yield first
                    async for piece in _pulsing(heartbeat, reply, first.text):
                        yield piece

    async def _begun(
        self, record: CallRecord, heartbeat: CallHeartbeat
    ) -> tuple[Reply, wire.Piece | wire.Final]:
        """One try, as far as its first piece: what follows, and the piece."""
        await self._server.ready()
        record.mark_sent()
        reply = self._client.chat(record.body)
        try:
            return reply, await heartbeat.within(anext(reply))
        except BaseException:
            await reply.aclose()
            raise

    @contextlib.asynccontextmanager
    async def _admitted(self, model: str) -> AsyncIterator[None]:
        """One logical call, with all its tries, in the breaker's eyes."""
        breaker, began_s = self.breaker(model), time.monotonic()
        trial = breaker.admit(began_s)
        try:
            if trial:
                await self._server.ready()
                await self._try_out()
            yield
        except Exception as exc:
            if isinstance(exc, ENDS) and await self._was_asked_for(began_s):
                breaker.record_cancel(trial=trial)
            else:
                breaker.record_failure(exc, time.monotonic(), trial=trial)
            raise
        except BaseException:
            breaker.record_cancel(trial=trial)
            raise
        breaker.record_success()

    async def _was_asked_for(self, began_s: float) -> bool:
        """
        Whether the server ended since then because one of its users restarted it; the news comes a
        moment after the end.
        """
        await self._server.wait_for_exit_news()
        return self._server.ended_on_request_since(began_s)

    def reset_breakers(self) -> None:
        """Close all breakers: the server they speak of has been replaced."""
        for breaker in self._breakers.values():
            breaker.record_success()

    async def _try_out(self) -> None:
        """A server that hangs is found out in seconds, not after the load timeout."""
        try:
            await self._client.version()
        except (ServerTimeout, PortTaken) as exc:
            raise ServerHung(exc.message, fix="restart it, or %urisk_start") from exc

    def _between_tries(self, record: CallRecord) -> Callable[[RetryCallState], Awaitable[None]]:
        """
        What is done before the next try: a model that has gone is pulled again. The server itself
        is made sure of by the try.
        """

        async def mend(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error is not None:
                record.mark_retry(error)
            if isinstance(error, ModelNotFound):
                await self._take(record.model)
            elif isinstance(error, ServerConnectionLost | ServerNotRunning):
                await self._server.wait_for_exit_news()

        return mend


async def _pulsing(
    heartbeat: CallHeartbeat, reply: AsyncIterator[wire.Piece | wire.Final], said: str
) -> AsyncIterator[wire.Piece | wire.Final]:
    """
    What follows the first piece; a server that is given up in the middle is told with the text that
    had come.
    """
    try:
        while (piece := await heartbeat.within(anext(reply, None))) is not None:
            said += piece.text
            yield piece
    except ServerHung as exc:
        raise StreamInterrupted(
            f"the answer was cut off after {len(said)} characters: {exc.message}",
            fix=exc.fix,
            partial=said,
        ) from exc
