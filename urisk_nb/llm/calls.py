"""Calls as they go and as they went: what was asked, how far it is, which tries failed, how it
ended, and its timing.

Written on the loop, read from anywhere: every field is set once, or grows. What is kept is in this
process alone, and bounded: the last 200 calls, each with at most some 64 kB of its request and of
its answer.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from urisk_nb.errors import UriskError
from urisk_nb.llm.latency import CallTiming, percentile, timing_of
from urisk_nb.llm.messages import Chunk, Final

__all__ = ["CANCELLED", "OK", "CallRecord", "Calls", "FailedAttempt"]

KEPT = 200
MAX_KEPT = 64 * 1024  # bytes of a request, characters of an answer
OK, CANCELLED = "ok", "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """
    A try that failed, and was made again: the error's name, what was seen, and how long the try had
    taken, seconds.
    """

    error: str
    message: str
    took_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class CallRecord:
    """
    One call.

    Attributes
    ----------
    number
        Counts the calls of the session from 1, in the order in which they were asked.
    body
        The request as it is sent; its first part, of a long one that has ended.
    model, asked_at
        Who is asked, and since when (UTC).
    asked_s, started_s, first_sent_s, sent_s, first_s, ended_s
        Our monotonic clock, seconds: asked for, its turn, first and last try sent, first piece,
        end. None: not yet.
    texts
        The answer so far.
    failures
        The tries that failed and were made again.
    outcome
        Empty while it is under way, then `ok`, `cancelled` (by the caller) or the name of the
        error.
    message
        What the error said.
    timing
        Where its time went, once it has ended.
    """

    number: int
    body: bytes
    model: str
    asked_at: datetime
    asked_s: float
    started_s: float | None = None
    first_sent_s: float | None = None
    sent_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    texts: list[str] = field(default_factory=list)
    failures: list[FailedAttempt] = field(default_factory=list)
    outcome: str = ""
    message: str = ""
    timing: CallTiming | None = None

    @property
    def phase(self) -> str:
        """
        How far it is: `queued locally`, `waiting for the server` (that is being started again),
        `asked` (queue, load and prompt: the server tells them apart at the end), `answering`; or
        the outcome.
        """
        if self.outcome:
            return self.outcome
        if self.started_s is None:
            return "queued locally"
        if self.sent_s is None:
            return "waiting for the server"
        return "asked" if self.first_s is None else "answering"

    def elapsed_s(self, now_s: float) -> float:
        """Return seconds since it was asked for, on the monotonic clock, or until its end."""
        return (now_s if self.ended_s is None else self.ended_s) - self.asked_s

    def mark_started(self) -> None:
        """Note that its turn has come."""
        self.started_s = time.monotonic()

    def mark_sent(self) -> None:
        """Note that an attempt is sent now."""
        self.sent_s = time.monotonic()
        if self.first_sent_s is None:
            self.first_sent_s = self.sent_s

    def mark_retry(self, error: BaseException) -> None:
        """Note an attempt that failed, before the next one."""
        took_s = time.monotonic() - (self.sent_s if self.sent_s is not None else self.asked_s)
        self.failures.append(
            FailedAttempt(error=type(error).__name__, message=_words(error), took_s=took_s)
        )

    def add_chunk(self, chunk: Chunk | Final) -> None:
        """Take in a chunk of the answer, or its end."""
        if self.first_s is None:
            self.first_s = time.monotonic()
        if chunk.text:
            self.texts.append(chunk.text)

    @property
    def answer(self) -> str:
        """What the model has said."""
        return "".join(self.texts)


class Calls:
    """
    The calls under way and the last 200 that have ended; iterating gives the timings of those that
    ended well, the oldest first.

    Attributes
    ----------
    asked, outcomes
        Since the session began: how many were asked, and how many ended in which way.
    """

    def __init__(self) -> None:
        self._kept: deque[CallRecord] = deque(maxlen=KEPT)
        self._live: dict[int, CallRecord] = {}
        self.asked = 0
        self.outcomes: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[CallTiming]:
        return iter(
            [
                record.timing
                for record in self.records
                if record.outcome == OK and record.timing is not None
            ]
        )

    @property
    def records(self) -> tuple[CallRecord, ...]:
        """The calls that have ended, in the order of their ends."""
        return tuple(self._kept)  # one step for other threads

    @property
    def live(self) -> tuple[CallRecord, ...]:
        """The calls under way, in the order in which they were asked."""
        return tuple(self._live.values())

    def begin(self, body: bytes, model: str) -> CallRecord:
        """Open the record of a call that is asked for."""
        self.asked += 1
        record = CallRecord(
            number=self.asked,
            body=body,
            model=model,
            asked_at=datetime.now(UTC),
            asked_s=time.monotonic(),
        )
        self._live[record.number] = record
        return record

    def end(self, record: CallRecord, final: Final) -> CallTiming:
        """Close the record of a call that ended well; return its timing."""
        timing = self._timing(record, final)
        self._ended(record, timing, OK)
        return timing

    def fail(self, record: CallRecord, error: BaseException) -> None:
        """
        Close the record of a call that failed or was cancelled; one that was closed before stays.
        """
        if record.outcome:
            return
        is_error = isinstance(error, Exception)  # a cancel and a consumer who leaves are none
        record.message = _words(error) if is_error else ""
        self._ended(
            record,
            self._timing(record, Final()),
            type(error).__name__ if is_error else CANCELLED,
        )

    def _timing(self, record: CallRecord, final: Final) -> CallTiming:
        record.ended_s = time.monotonic()

        def since(began_s: float | None, end_s: float | None) -> float:
            return math.nan if began_s is None or end_s is None else end_s - began_s

        return timing_of(
            final,
            first_token_s=since(record.sent_s, record.first_s),
            total_s=since(record.sent_s, record.ended_s),
            wait_s=since(
                record.asked_s,
                record.ended_s if record.first_sent_s is None else record.first_sent_s,
            ),
            retry_s=0.0 if record.sent_s is None else since(record.first_sent_s, record.sent_s),
            attempts=len(record.failures) + (record.sent_s is not None),
            asked_at=record.asked_at,
            model=record.model,
        )

    def _ended(self, record: CallRecord, timing: CallTiming, outcome: str) -> None:
        record.timing, record.outcome = timing, outcome
        record.body = record.body[:MAX_KEPT]
        record.texts[:] = [record.answer[:MAX_KEPT]]
        self._live.pop(record.number, None)
        self._kept.append(record)
        self.outcomes[outcome] += 1

    def percentile(self, name: str, share: float) -> float:
        """
        Return the nearest-rank percentile, `share` from 0 to 100, of a figure of CallTiming over
        the calls that ended well.
        """
        return percentile((getattr(timing, name) for timing in self), share)


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, UriskError) else repr(error)
