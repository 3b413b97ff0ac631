"""
An answer, whole or in pieces, as the caller gets it: text that knows where it came from and where
its time went.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Self

from urisk_nb import event_loop
from urisk_nb.errors import NotInitialized
from urisk_nb.llm.calls import CallTiming
from urisk_nb.llm.client import OnChunk
from urisk_nb.llm.messages import Chunk, Final, TokenLogprob
from urisk_nb.llm.retrying_client import Exchange

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager

__all__ = ["Answer", "AnswerStream"]


class Answer(str):
    """
    An answer: the text itself, which knows where it came from.

    Attributes
    ----------
    model, engine
        Who answered; `engine` is `ollama`, `embedded` or `openai`.
    done_reason
        `stop`, or `length` where the answer was cut at a limit.
    thinking
        The model's reasoning, where the model gives one.
    timing
        The phases of the call.
    logprobs
        The tokens with their log-probabilities, where they were asked for and the server
        reports them.
    """

    __slots__ = ("done_reason", "engine", "logprobs", "model", "thinking", "timing")
    model: str
    engine: str
    done_reason: str
    thinking: str
    timing: CallTiming
    logprobs: tuple[TokenLogprob, ...]

    def __new__(
        cls,
        text: str,
        *,
        model: str,
        engine: str,
        done_reason: str,
        timing: CallTiming,
        thinking: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Self:
        self = super().__new__(cls, text)
        self.model, self.engine, self.done_reason = model, engine, done_reason
        self.thinking, self.timing, self.logprobs = thinking, timing, logprobs
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {name: getattr(self, name) for name in self.__slots__}


class AnswerStream:
    """
    The pieces of an answer as they come: `async for` on any loop, `for` where one may block.

    Leaving the iteration stops the generation on the server. `answer` is there when the iteration
    has ended.
    """

    def __init__(
        self, session: LLMManager, body: bytes, exchange: Exchange, model: str | None = None
    ) -> None:
        self._session, self._body, self._exchange = session, body, exchange
        # As it is asked: the session may go on with another model while this call is in flight.
        self._model = model or session.model
        self._thoughts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        if self._answer is None:
            raise NotInitialized("the answer has not ended.", fix="iterate to the end first")
        return self._answer

    def __aiter__(self) -> AsyncIterator[str]:
        return event_loop.iterate(self.pieces())

    def __iter__(self) -> Iterator[str]:
        return event_loop.iterate_sync(self.pieces())

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the pieces, on the manager's own loop; leaving cancels the call."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def take(chunk: Chunk | Final) -> None:
            if chunk.text:
                pieces.put_nowait(chunk.text)

        call = asyncio.get_running_loop().create_task(self.whole(take))
        call.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await call
        finally:
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await call

    async def whole(self, on_chunk: OnChunk = lambda _: None) -> Answer:
        """Return the answer, on the manager's own loop."""
        session = self._session
        record = session.calls.begin(self._body, self._model)

        def take(chunk: Chunk | Final) -> None:
            self._logprobs += chunk.logprobs
            if isinstance(chunk, Chunk) and chunk.thinking:
                self._thoughts.append(chunk.thinking)
            on_chunk(chunk)

        try:
            final = await session.run_call(record, self._exchange, take)
        except BaseException as exc:
            session.calls.fail(record, exc)
            raise
        text = record.answer  # whole: the end of the record keeps the first part only
        self._answer = Answer(
            text,
            model=self._model,
            engine=str(session.engine),
            done_reason=final.done_reason,
            timing=session.calls.end(record, final),
            thinking="".join(self._thoughts),
            logprobs=tuple(self._logprobs),
        )
        return self._answer
