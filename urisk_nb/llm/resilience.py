"""Decisions about failures, as data and pure functions of (state, event, now): what a failure
means, when to try again, when to pause.

Knows: which failure is worth another try, which one counts against a server, how long to wait. Does
not know how a try is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from urisk_nb import errors

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

__all__ = [
    "RETRY_RULES",
    "Attempts",
    "Breaker",
    "BreakerState",
    "InRun",
    "RetryRule",
    "retry_rule_for",
    "retrying",
]

FIRST_WAIT_S, MAX_WAIT_S = 0.2, 5.0
MAX_ASKED_S = 30.0  # of a Retry-After
RUNNER_WAIT_S = 1.0  # a server needs a moment to see that its runner is gone


# What a failure means -----------------------------------------------------------------------------


class InRun(StrEnum):
    """What a run does after a call that failed; a run has many calls, and more patience."""

    END = "end"  # it cannot go on: the others would fail, too
    WAIT = "wait"  # the server is away, and the call has no part in it
    # The call may have brought the server down: made once more, while no other is in flight
    ALONE = "alone"
    AGAIN = "again"  # made once more
    SKIP = "skip"  # the same would come of it again: the run goes on with the others


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """
    What a failure before the first token means.

    Parameters
    ----------
    attempts
        How many tries in all it is worth; None: as many as the settings allow.
    counts
        Whether it speaks against the server's health, which is what the breaker counts. Being busy
        does not, nor does a request that the server rightly refuses, nor a lack of memory, which a
        pause does not cure.
    in_run
        What a run does, in place of the attempts; see `urisk_nb.llm.run_calls`.
    """

    attempts: int | None = 1
    counts: bool = False
    in_run: InRun = InRun.END


# The nearest base that stands here is what counts. Whatever is not here, a cancel and an interrupt
# for example, is passed on at once and counts nothing.
RETRY_RULES: dict[type[BaseException], RetryRule] = {
    # The connection was refused: the server is started between tries
    errors.ServerNotRunning: RetryRule(attempts=None, counts=True, in_run=InRun.WAIT),
    # The connection broke: generation is idempotent
    errors.ServerConnectionLost: RetryRule(attempts=None, counts=True, in_run=InRun.ALONE),
    # Its client connects again, and its other workers answer
    errors.ClusterLost: RetryRule(in_run=InRun.WAIT),
    # Two have ended: the question may be why
    errors.WorkerLost: RetryRule(in_run=InRun.ALONE),
    # A managed server is started again; one that hangs twice will hang again
    errors.ServerHung: RetryRule(attempts=2, counts=True, in_run=InRun.ALONE),
    # 503, 429: a full queue is no fault
    errors.ServerBusy: RetryRule(attempts=None, in_run=InRun.WAIT),
    # The server loads the model again; a second crash is no accident
    errors.RunnerCrashed: RetryRule(attempts=2, counts=True, in_run=InRun.ALONE),
    # Any other 5xx
    errors.ServerInternalError: RetryRule(attempts=2, counts=True, in_run=InRun.AGAIN),
    errors.ServerStartFailed: RetryRule(counts=True),  # its own restarts are behind it
    # Never again after the first token: the caller has seen text. A run shows none
    errors.StreamInterrupted: RetryRule(counts=True, in_run=InRun.ALONE),
    # It answered the probes meanwhile: slow, not broken
    errors.ServerTimeout: RetryRule(in_run=InRun.AGAIN),
    errors.OutOfMemory: RetryRule(),
    # Pulled, where that is allowed, then asked once more
    errors.ModelNotFound: RetryRule(attempts=2),
    errors.CircuitOpen: RetryRule(in_run=InRun.WAIT),
    # What the server says of one request holds for that request
    errors.BadRequest: RetryRule(in_run=InRun.SKIP),
    # A firewall refuses words of one sentence. A key that is no longer good fails all of them
    errors.AccessDenied: RetryRule(in_run=InRun.SKIP),
    errors.ProtocolError: RetryRule(in_run=InRun.AGAIN),
    errors.ContextExceeded: RetryRule(in_run=InRun.SKIP),
    errors.AnswerIncomplete: RetryRule(in_run=InRun.AGAIN),
    errors.ServerError: RetryRule(),
    errors.ModelError: RetryRule(),
}
NO_RETRY = RetryRule()


def retry_rule_for(error: BaseException | None) -> RetryRule:
    """Return the rule for how an attempt ended; success, a cancel and a bug have NO_RETRY."""
    return next(
        (RETRY_RULES[base] for base in type(error).__mro__ if base in RETRY_RULES), NO_RETRY
    )


# Trying again -------------------------------------------------------------------------------------


class Attempts:
    """
    The attempts of a call, for `async for`: each is a context, and a success leaves the loop.

    The first one is made without a count of attempts, which comes with its failure: that has locks
    and storage of threads in a reference cycle, much garbage for what most calls never need.

    Parameters
    ----------
    max_retries, before_sleep, may_retry
        As `retrying` takes them.
    """

    def __init__(
        self,
        max_retries: int,
        before_sleep: Callable[[RetryCallState], Awaitable[Any]],
        may_retry: Callable[[BaseException | None], bool] = lambda _: True,
    ) -> None:
        self._args = (max_retries, before_sleep, may_retry)
        self._is_begun = False
        self._failure: Exception | None = None
        self._others: AsyncRetrying | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AbstractContextManager[object]:
        if not self._is_begun:
            self._is_begun = True
            return self
        if self._others is None:
            self._others = aiter(retrying(*self._args))
            with await anext(self._others):
                raise self._take_failure()
        return await anext(self._others)

    def _take_failure(self) -> Exception:
        failure, self._failure = self._failure, None
        if failure is None:
            raise RuntimeError("a loop of attempts goes on after a success: leave it")
        return failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        self._failure = error if isinstance(error, Exception) else None
        return self._failure is not None


def retrying(
    max_retries: int,
    before_sleep: Callable[[RetryCallState], Awaitable[Any]],
    may_retry: Callable[[BaseException | None], bool] = lambda _: True,
) -> AsyncRetrying:
    """
    Return the attempts of a call, with full jitter: the n-th wait is uniform between 0 and
    0.2 s * 2^n, at most 5 s.

    Parameters
    ----------
    max_retries
        Tries after the first one (OLLAMA_MAX_RETRIES).
    before_sleep
        Awaited between tries; makes sure that the server is up.
    may_retry
        Asked after a failure, which it is given: false once the caller has seen text.
    """
    from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

    backoff = wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)
    # Each kind of failure has its own number of tries: a busy moment before costs none of them
    seen: Counter[RetryRule] = Counter()

    def again(state: RetryCallState) -> bool:
        meaning = retry_rule_for(_error(state))
        seen[meaning] += 1
        return may_retry(_error(state)) and (
            meaning.attempts is None or seen[meaning] < meaning.attempts
        )

    def wait(state: RetryCallState) -> float:
        return max(_least_wait_s(_error(state)), backoff(state))

    return AsyncRetrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=wait,
        retry=again,
        before_sleep=before_sleep,
        reraise=True,
    )


def _least_wait_s(error: BaseException | None) -> float:
    """
    Return the wait that the failure itself asks for: the server's Retry-After, or time for it to
    see that its runner is gone.
    """
    if isinstance(error, errors.RunnerCrashed):
        return RUNNER_WAIT_S
    asked_s = getattr(error, "facts", {}).get("retry_after_s") or 0.0
    return min(float(asked_s), MAX_ASKED_S)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


# The breaker --------------------------------------------------------------------------------------


class BreakerState(StrEnum):
    """Whether calls go through a breaker."""

    CLOSED = "closed"  # all of them
    OPEN = "open"  # none
    HALF_OPEN = "half_open"  # one, which probes the server


@dataclass(slots=True, kw_only=True)
class Breaker:
    """
    Stops asking a server that fails time after time; after a pause, one call alone tries whether it
    is well again.

    Used on one loop, so it needs no lock. A call is one logical call, with all its tries.

    Parameters
    ----------
    threshold
        Failures in a row that open it.
    pause_s, longest_s
        The first pause; it doubles with each trial that fails, up to the longest.
    """

    threshold: int = 5
    pause_s: float = 5.0
    longest_s: float = 60.0
    failures: int = 0
    opened_at: float | None = None  # on the caller's monotonic clock
    trying: bool = False
    last: BaseException | None = None
    _pause_s: float = field(default=0.0, init=False)

    def state(self, now: float) -> BreakerState:
        """Return whether calls go through."""
        if self.opened_at is None:
            return BreakerState.CLOSED
        is_over = now - self.opened_at >= self._pause_s
        return BreakerState.HALF_OPEN if is_over else BreakerState.OPEN

    def admit(self, now: float) -> bool:
        """
        Return whether this call is the one that tries the server out; the end of every admitted
        call is told by one of the three methods below.

        Raises
        ------
        CircuitOpen
            The call is not to be made.
        """
        state = self.state(now)
        if state is BreakerState.CLOSED:
            return False
        if state is BreakerState.OPEN or self.trying:
            raise self._refusal(now)
        self.trying = True
        return True

    def _refusal(self, now: float) -> errors.CircuitOpen:
        since_s = now - self.opened_at if self.opened_at is not None else 0.0
        left_s = max(0.0, self._pause_s - since_s)
        when = f"it is tried again in {left_s:.1f} s" if left_s else "one call is trying it now"
        seen = getattr(self.last, "message", repr(self.last))
        message = (
            f"the server failed {self.failures} times in a row, the last time so: {seen} "
            f"The circuit is open; {when}."
        )
        return errors.CircuitOpen(
            message, fix="wait, or look at the server: %urisk_status", left_s=left_s
        )

    def record_success(self) -> None:
        """Close the circuit: the call ended well."""
        self.failures, self.opened_at, self.trying, self.last, self._pause_s = (
            0,
            None,
            False,
            None,
            0.0,
        )

    def record_failure(self, error: BaseException, now: float, *, trial: bool) -> None:
        """
        Count a failed call, if its rule says so; a trial that is rightly refused shows a server
        that is well, and closes the circuit.
        """
        if trial:
            self.trying = False
        if not retry_rule_for(error).counts:
            if trial and isinstance(error, errors.UriskError):
                self.record_success()
            return
        self.failures += 1
        self.last = error
        if trial or (self.failures >= self.threshold and self.opened_at is None):
            self._pause_s = (
                min(2 * self._pause_s or self.pause_s, self.longest_s) if trial else self.pause_s
            )
            self.opened_at = now

    def record_cancel(self, *, trial: bool) -> None:
        """
        Note a call that its caller cancelled: it says nothing, and the place of a trial is free
        again.
        """
        if trial:
            self.trying = False
