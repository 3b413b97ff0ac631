"""
An answer, whole or in pieces, as the caller gets it: text that knows where it came from and where
its time went.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol, Self

from urisk_nb import event_loop
from urisk_nb.errors import NotInitialized
from urisk_nb.llm import wire
from urisk_nb.llm.calls import CallRecord, Calls
from urisk_nb.llm.latency import CallTiming
from urisk_nb.settings import Engine

__all__ = ["Answer", "AnswerStream", "Session"]


class Session(Protocol):
    """
    What a stream needs of the manager: a place among the calls in flight, and the server's reply to
    a body.
    """

    model: str
    calls: Calls

    @property
    def engine(self) -> Engine:
        """What answers."""

    def place(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the places for calls in flight."""

    def stream_reply(self, record: CallRecord) -> AsyncGenerator[wire.Piece | wire.Final, None]:
        """The pieces of the reply to the record's request; its tries are noted in the record."""


class Answer(str):
    """
    An answer: the text itself, which knows where it came from.

    Attributes
    ----------
    model, engine
        Who answered; `engine` is `ollama`, `embedded` or `simulated`.
    done_reason
        `stop`, or `length` where the answer was cut at a limit.
    thinking
        The model's reasoning, where the model gives one.
    timing
        The phases of the call.
    told
        The tokens with their log-probabilities, where they were asked for (`logprobs`) and the
        server tells them.
    """

    __slots__ = ("done_reason", "engine", "logprobs", "model", "thinking", "timing")
    model: str
    engine: str
    done_reason: str
    thinking: str
    timing: CallTiming
    logprobs: tuple[wire.TokenLogprob, ...]

    def __new__(
        cls,
        text: str,
        *,
        model: str,
        engine: str,
        done_reason: str,
        timing: CallTiming,
        thinking: str = "",
        logprobs: tuple[wire.TokenLogprob, ...] = (),
    ) -> Self:
        self = super().__new__(cls, text)
        self.model, self.engine, self.done_reason, self.thinking, self.timing = (
            model,
            engine,
            done_reason,
            thinking,
            timing,
        )
        self.logprobs = logprobs
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {name: getattr(self, name) for name in self.__slots__}

    @property
    def simulated(self) -> bool:
        """Whether no model was asked."""
        return self.engine == Engine.SIMULATED


class AnswerStream:
    """
    The pieces of an answer as they come: `async for` on any loop, `for` where one may block.

    Leaving the iteration stops the generation on the server. `answer` is there when the iteration
    has ended.
    """

    def __init__(self, session: Session, body: bytes, model: str | None = None) -> None:
        self._session = session
        self._body = body
        # As it is asked: the session may go on with another while this call is under way
        self._model = model or session.model
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
        """The pieces, on the manager's own loop."""
        calls, record = self._session.calls, self._session.calls.begin(self._body, self._model)
        thoughts: list[str] = []
        logprobs: list[wire.TokenLogprob] = []
        try:
            async with self._session.place(), aclosing(self._session.stream_reply(record)) as reply:
                record.mark_started()
                async for piece in reply:
                    record.add_chunk(piece)
                    logprobs += piece.logprobs
                    if isinstance(piece, wire.Final):
                        self._end(record, "".join(thoughts), tuple(logprobs), piece)
                    elif piece.thinking:
                        thoughts.append(piece.thinking)
                    if piece.text:
                        yield piece.text
        except BaseException as exc:
            calls.fail(record, exc)
            raise

    def _end(
        self,
        record: CallRecord,
        thinking: str,
        logprobs: tuple[wire.TokenLogprob, ...],
        final: wire.Final,
    ) -> None:
        text = record.answer
        timing = self._session.calls.end(record, final)
        facts = {
            "model": self._model,
            "engine": str(self._session.engine),
            "done_reason": final.done_reason,
        }
        self._answer = Answer(text, timing=timing, thinking=thinking, logprobs=logprobs, **facts)

    async def whole(self) -> Answer:
        """The answer, on the manager's own loop."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self.answer
