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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from urisk_nb.errors import UriskError
from urisk_nb.llm.messages import Chunk, Final

__all__ = [
    "CANCELLED",
    "OK",
    "CallRecord",
    "CallTiming",
    "Calls",
    "FailedAttempt",
    "percentile",
    "timing_of",
]

KEPT = 200
MAX_KEPT = 64 * 1024  # bytes of a request, characters of an answer
OK, CANCELLED = "ok", "cancelled"


# Timing -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTiming:
    """
    The phases of one call, in seconds; NaN where the server gave no counter.

    Attributes
    ----------
    queue_s
        Waiting for a slot at the server: its total less load, prompt and generation, which its
        counters leave out.
    load_s, prompt_s, generation_s, server_total_s
        The server's counters. `prompt_s` is for the part of the prompt that was not in its prefix
        cache.
    first_token_s, total_s
        By the clock of this process: from the sending of the request (the last try) to the first
        piece and to the end.
    wait_s
        Before the first try was sent: the local queue, until one more call may be in flight, and
        a server that was being started again.
    retry_s
        Tries that failed, and the pauses between them: from the first try's sending to the last
        one's.
    prompt_tokens, tokens
        The whole prompt, cached or not, and the answer.
    attempts
        Tries, the one that succeeded included.
    asked_at, model
        When the call was made (UTC), and of whom.
    """

    queue_s: float
    load_s: float
    prompt_s: float
    generation_s: float
    server_total_s: float
    first_token_s: float
    total_s: float
    wait_s: float = 0.0
    retry_s: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    attempts: int = 1
    asked_at: datetime | None = None
    model: str = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds from the asking to the end; of a call that was never sent, the wait."""
        return self.wait_s + self.retry_s + (0.0 if math.isnan(self.total_s) else self.total_s)

    @property
    def tokens_per_s(self) -> float:
        """
        Tokens of the answer for each second of generation; NaN where either is unknown, and for a
        single token.

        The first token comes with the prompt. The server counts the time of the generation from
        there, so it belongs to the other tokens.
        """
        return (
            (self.tokens - 1) / self.generation_s
            if self.tokens > 1 and self.generation_s > 0
            else math.nan
        )


def timing_of(
    final: Final, *, first_token_s: float, total_s: float, **known_here: Any
) -> CallTiming:
    """
    Return the timing of a call from the end of its reply, the clock of this process, and what else
    is known here: `wait_s`, `attempts`, ...
    """
    spent_ns = final.load_ns + final.prompt_ns + final.generation_ns
    # llama.cpp reports its phases and not its total: what is measured beyond them is the queue.
    whole_s = final.total_ns / 1e9 if final.total_ns else total_s
    known = final.total_ns > 0 or spent_ns > 0

    def seconds(nanoseconds: float) -> float:
        return nanoseconds / 1e9 if known else math.nan

    return CallTiming(
        queue_s=max(0.0, whole_s - spent_ns / 1e9) if known else math.nan,
        load_s=seconds(final.load_ns),
        prompt_s=seconds(final.prompt_ns),
        generation_s=seconds(final.generation_ns),
        server_total_s=final.total_ns / 1e9 if final.total_ns else math.nan,
        first_token_s=first_token_s,
        total_s=total_s,
        prompt_tokens=final.prompt_tokens,
        tokens=final.tokens,
        **known_here,
    )


def percentile(values: Iterable[float], share: float) -> float:
    """
    Return the nearest-rank percentile: the smallest value that at least `share` % of the values do
    not exceed; NaN without values.

    Parameters
    ----------
    values
        Numbers; NaN is left out.
    share
        0 to 100; 50 is the median.
    """
    known = sorted(value for value in values if not math.isnan(value))
    return known[max(0, math.ceil(share / 100 * len(known)) - 1)] if known else math.nan


# Calls --------------------------------------------------------------------------------------------


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
    server
        Of several servers, the address of the one that was asked last; empty before, and where
        there is one.
    asked_s, started_s, first_sent_s, sent_s, first_s, ended_s
        Monotonic clock of this process, seconds: asked for, its turn, first and last try sent,
        first piece, end. None: not yet.
    thinking_s
        When the first piece came, if it was one of the model's thoughts; the same clock.
    texts
        The answer so far.
    failures
        The tries that failed and were made again.
    outcome
        Empty while it is in flight, then `ok`, `cancelled` (by the caller) or the name of the
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
    thinking_s: float | None = None
    ended_s: float | None = None
    texts: list[str] = field(default_factory=list)
    failures: list[FailedAttempt] = field(default_factory=list)
    outcome: str = ""
    message: str = ""
    timing: CallTiming | None = None
    server: str = ""

    @property
    def phase(self) -> str:
        """
        How far it is: `queued locally`, `waiting for the server` (that is being started again),
        `asked` (queue, load and prompt: the server reports them at the end), `thinking` (no text
        has come yet), `answering`; or the outcome.
        """
        if self.outcome:
            return self.outcome
        if self.started_s is None:
            return "queued locally"
        if self.sent_s is None:
            return "waiting for the server"
        if self.first_s is None:
            return "asked"
        return "thinking" if self.thinking_s is not None and not self.texts else "answering"

    def describe_wait(self, now_s: float) -> str:
        """Return what is waited for and for how long, `waiting (3 s)`; empty once text comes."""
        phase = self.phase
        if phase in ("answering", self.outcome):
            return ""
        is_thinking = phase == "thinking" and self.thinking_s is not None
        since_s = self.thinking_s if is_thinking else self.asked_s
        word = "thinking" if is_thinking else "waiting"
        return f"{word} ({now_s - (since_s or now_s):.0f} s)"

    def elapsed_s(self, now_s: float) -> float:
        """Return seconds since it was asked for, on the monotonic clock, or until its end."""
        return (now_s if self.ended_s is None else self.ended_s) - self.asked_s

    def mark_started(self) -> None:
        """Note that its turn has come; on another server it has come already."""
        if self.started_s is None:
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

    def drop_answer(self) -> None:
        """Forget what has come: the call begins anew on another server."""
        self.texts.clear()
        self.first_s = self.thinking_s = None

    def add_chunk(self, chunk: Chunk | Final) -> None:
        """Take in a chunk of the answer, or its end."""
        if self.first_s is None:
            self.first_s = time.monotonic()
            if chunk.thinking and not chunk.text:
                self.thinking_s = self.first_s
        if chunk.text:
            self.texts.append(chunk.text)

    @property
    def answer(self) -> str:
        """What the model has said."""
        return "".join(self.texts)


class Calls:
    """
    The calls in flight and the last 200 that have ended; iterating gives the timings of those that
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
        """The calls in flight, in the order in which they were asked."""
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
        return self._close(record, final, OK)

    def fail(self, record: CallRecord, error: BaseException) -> None:
        """
        Close the record of a call that failed or was cancelled; one that was closed before stays.
        """
        if record.outcome:
            return
        is_error = isinstance(error, Exception)  # a cancel and a consumer who leaves are none
        record.message = _words(error) if is_error else ""
        self._close(record, Final(), type(error).__name__ if is_error else CANCELLED)

    def _close(self, record: CallRecord, final: Final, outcome: str) -> CallTiming:
        record.ended_s = time.monotonic()

        def since(began_s: float | None, end_s: float | None) -> float:
            return math.nan if began_s is None or end_s is None else end_s - began_s

        record.timing = timing_of(
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
        record.outcome = outcome
        record.body = record.body[:MAX_KEPT]
        record.texts[:] = [record.answer[:MAX_KEPT]]
        self._live.pop(record.number, None)
        self._kept.append(record)
        self.outcomes[outcome] += 1
        return record.timing

    def percentile(self, name: str, share: float) -> float:
        """
        Return the nearest-rank percentile, `share` from 0 to 100, of a figure of CallTiming over
        the calls that ended well.
        """
        return percentile((getattr(timing, name) for timing in self), share)


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, UriskError) else repr(error)
