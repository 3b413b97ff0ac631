"""An answer, whole or in pieces, as the caller gets it: text that knows where it came from and where its time went."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import UTC, datetime
from typing import Any, Protocol, Self

from urisk_nb import bridge
from urisk_nb.errors import NotInitialized
from urisk_nb.ollama import wire
from urisk_nb.ollama.latency import Calls, CallTiming, timing_of
from urisk_nb.settings import Engine

__all__ = ["Answer", "AnswerStream", "Session"]


class Session(Protocol):
    """What a stream needs of the manager: a place among the calls in flight, and the server's reply to a body."""

    model: str
    calls: Calls

    @property
    def engine(self) -> Engine:
        """What answers."""

    def place(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the places for calls in flight."""

    def opened(self, body: bytes, model: str) -> AsyncGenerator[tuple[float, int, wire.Piece | wire.Final], None]:
        """Each piece, with the time when the try was sent and its number."""


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
    """

    __slots__ = ("done_reason", "engine", "model", "thinking", "timing")
    model: str
    engine: str
    done_reason: str
    thinking: str
    timing: CallTiming

    def __new__(cls, text: str, *, model: str, engine: str, done_reason: str, timing: CallTiming, thinking: str = "") -> Self:
        self = super().__new__(cls, text)
        self.model, self.engine, self.done_reason, self.thinking, self.timing = model, engine, done_reason, thinking, timing
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

    Leaving the iteration stops the generation on the server. `answer` is there when the iteration has ended.
    """

    def __init__(self, session: Session, body: bytes, model: str | None = None) -> None:
        self._session = session
        self._body = body
        self._model = model or session.model  # as it is asked: the session may go on with another while this call is under way
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        if self._answer is None:
            raise NotInitialized("the answer has not ended.", fix="iterate to the end first")
        return self._answer

    def __aiter__(self) -> AsyncIterator[str]:
        return bridge.iterate(self.pieces())

    def __iter__(self) -> Iterator[str]:
        return bridge.iterate_sync(self.pieces())

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The pieces, on the manager's own loop."""
        session, asked_at = self._session, datetime.now(UTC)
        asked_s, first_s = time.monotonic(), None
        texts: list[str] = []
        thoughts: list[str] = []
        async with session.place(), aclosing(session.opened(self._body, self._model)) as reply:
            granted_s = time.monotonic()
            async for sent_s, attempts, piece in reply:
                now_s = time.monotonic()
                if first_s is None:
                    first_s = now_s
                texts.append(piece.text)
                if isinstance(piece, wire.Final):
                    waits = {"first_token_s": first_s - sent_s, "total_s": now_s - sent_s, "wait_s": granted_s - asked_s}
                    facts = {"attempts": attempts, "asked_at": asked_at, "model": self._model, **waits}
                    self._end("".join(texts), "".join(thoughts), piece, facts)
                elif piece.thinking:
                    thoughts.append(piece.thinking)
                if piece.text:
                    yield piece.text

    def _end(self, text: str, thinking: str, final: wire.Final, known: Mapping[str, Any]) -> None:
        timing = timing_of(final, **known)
        self._session.calls.append(timing)
        facts = {"model": self._model, "engine": str(self._session.engine), "done_reason": final.done_reason}
        self._answer = Answer(text, timing=timing, thinking=thinking, **facts)

    async def whole(self) -> Answer:
        """The answer, on the manager's own loop."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self.answer
