"""One call, with all its tries: admitted by the breaker, watched while it is silent, tried again until its first token and never after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import ModelNotFound, PortTaken, ServerHung, ServerLost, ServerNotRunning, ServerTimeout, StreamInterrupted
from urisk_nb.ollama import wire
from urisk_nb.ollama.client import Client
from urisk_nb.ollama.resilience import Breaker, retrying
from urisk_nb.ollama.server import Server
from urisk_nb.ollama.watch import Pulse

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Asking"]

Reply = AsyncGenerator[wire.Piece | wire.Final, None]


class Asking:
    """
    The way of every call to the server; used on one loop.

    Parameters
    ----------
    client, server
        Who is asked, and through what.
    take
        Awaited for a model that has gone: it is pulled and loaded again.
    """

    def __init__(self, client: Client, server: Server, take: Callable[[str], Awaitable[Any]]) -> None:
        self._client, self._server, self._take = client, server, take
        self._breakers: dict[str, Breaker] = {}

    def breaker(self, model: str) -> Breaker:
        """The model's own."""
        return self._breakers.setdefault(model, Breaker())

    async def opened(self, body: bytes, model: str, max_retries: int) -> AsyncGenerator[tuple[float, int, wire.Piece | wire.Final], None]:
        """Each piece with the time when the last try was sent and its number; tries again until the first piece, never after."""
        async with self._admitted(model):
            with self._server.watched() as pulse:
                async for attempt in retrying(max_retries, self._between_tries(model)):
                    with attempt:
                        sent_s, reply, first = await self._begun(body, pulse)
                tries = attempt.retry_state.attempt_number
                async with aclosing(reply):
                    yield sent_s, tries, first
                    async for piece in _pulsing(pulse, reply, first.text):
                        yield sent_s, tries, piece

    async def _begun(self, body: bytes, pulse: Pulse) -> tuple[float, Reply, wire.Piece | wire.Final]:
        """One try, as far as its first piece: when it was sent, what follows, and the piece."""
        await self._server.ready()
        sent_s = time.monotonic()
        reply = self._client.chat(body)
        try:
            return sent_s, reply, await pulse.within(anext(reply))
        except BaseException:
            await reply.aclose()
            raise

    @contextlib.asynccontextmanager
    async def _admitted(self, model: str) -> AsyncIterator[None]:
        """One logical call, with all its tries, in the breaker's eyes."""
        breaker = self.breaker(model)
        trial = breaker.admit(time.monotonic())
        try:
            if trial:
                await self._server.ready()
                await self._try_out()
            yield
        except Exception as exc:
            breaker.failed(exc, time.monotonic(), trial=trial)
            raise
        except BaseException:
            breaker.left(trial=trial)
            raise
        breaker.succeeded()

    async def _try_out(self) -> None:
        """A server that hangs is found out in seconds, not after the load timeout."""
        try:
            await self._client.version()
        except (ServerTimeout, PortTaken) as exc:
            raise ServerHung(exc.message, fix="restart it, or %urisk_start") from exc

    def _between_tries(self, model: str) -> Callable[[RetryCallState], Awaitable[None]]:
        """What is done before the next try: a model that has gone is pulled again. The server itself is made sure of by the try."""

        async def mend(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, ModelNotFound):
                await self._take(model)
            elif isinstance(error, ServerLost | ServerNotRunning):
                await self._server.settled()

        return mend


async def _pulsing(pulse: Pulse, reply: AsyncIterator[wire.Piece | wire.Final], said: str) -> AsyncIterator[wire.Piece | wire.Final]:
    """What follows the first piece; a server that is given up in the middle is told with the text that had come."""
    try:
        while (piece := await pulse.within(anext(reply, None))) is not None:
            said += piece.text
            yield piece
    except ServerHung as exc:
        raise StreamInterrupted(f"the answer was cut off after {len(said)} characters: {exc.message}", fix=exc.fix, partial=said) from exc
