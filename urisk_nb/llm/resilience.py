"""
Decisions about failures, as data and pure functions of (state, event, now).

Knows which failures to retry, which ones count against a server, and how long to wait. Does not
know how a call is made.
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
RUNNER_WAIT_S = 1.0  # a server needs a moment to notice that its runner has ended


# What a failure means -----------------------------------------------------------------------------


class InRun(StrEnum):
    """What a run does after a failed call; a run waits longer than a single call."""

    END = "end"  # end the run: the other calls would fail, too
    WAIT = "wait"  # the server is away, and not because of the call
    # The call may have crashed the server: retry it while no other call is in flight
    ALONE = "alone"
    AGAIN = "again"  # retry once
    SKIP = "skip"  # a retry would fail again: continue with the other calls


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """
    What a failure before the first token means.

    Parameters
    ----------
    attempts
        Total number of attempts; None: as many as the settings allow.
    counts
        Whether the breaker counts it as a sign of an unhealthy server. A busy server does not
        count, nor a request that the server correctly refuses, nor a lack of memory, which a pause
        does not help.
    in_run
        What a run does instead of the attempts; see `urisk_nb.llm.run_calls`.
    """

    attempts: int | None = 1
    counts: bool = False
    in_run: InRun = InRun.END


# The nearest base class in this table applies. Other exceptions, such as a cancel or an interrupt,
# propagate at once and do not count.
RETRY_RULES: dict[type[BaseException], RetryRule] = {
    # The connection was refused: the server is started between attempts
    errors.ServerNotRunning: RetryRule(attempts=None, counts=True, in_run=InRun.WAIT),
    # The connection broke: generation is idempotent
    errors.ServerConnectionLost: RetryRule(attempts=None, counts=True, in_run=InRun.ALONE),
    # The client reconnects, and other workers answer
    errors.ClusterLost: RetryRule(in_run=InRun.WAIT),
    # Two workers have ended: the question may be the cause
    errors.WorkerLost: RetryRule(in_run=InRun.ALONE),
    # A managed server is restarted; one that hangs twice will hang again
    errors.ServerHung: RetryRule(attempts=2, counts=True, in_run=InRun.ALONE),
    # 503, 429: a full queue is not a failure
    errors.ServerBusy: RetryRule(attempts=None, in_run=InRun.WAIT),
    # The server reloads the model; a second crash is no accident
    errors.RunnerCrashed: RetryRule(attempts=2, counts=True, in_run=InRun.ALONE),
    # Any other 5xx
    errors.ServerInternalError: RetryRule(attempts=2, counts=True, in_run=InRun.AGAIN),
    errors.ServerStartFailed: RetryRule(counts=True),  # the start has its own retries
    # No retry after the first token, because the caller has seen text. A run shows none
    errors.StreamInterrupted: RetryRule(counts=True, in_run=InRun.ALONE),
    # It answered probes meanwhile: slow, not broken
    errors.ServerTimeout: RetryRule(in_run=InRun.AGAIN),
    errors.OutOfMemory: RetryRule(),
    # Pulled if that is allowed, then retried once
    errors.ModelNotFound: RetryRule(attempts=2),
    errors.CircuitOpen: RetryRule(in_run=InRun.WAIT),
    # The refusal concerns this request only
    errors.BadRequest: RetryRule(in_run=InRun.SKIP),
    # A firewall may refuse the words of one sentence. An expired key fails all of them
    errors.AccessDenied: RetryRule(in_run=InRun.SKIP),
    errors.ProtocolError: RetryRule(in_run=InRun.AGAIN),
    errors.ContextExceeded: RetryRule(in_run=InRun.SKIP),
    errors.AnswerIncomplete: RetryRule(in_run=InRun.AGAIN),
    errors.ServerError: RetryRule(),
    errors.ModelError: RetryRule(),
}
NO_RETRY = RetryRule()


def retry_rule_for(error: BaseException | None) -> RetryRule:
    """Return the rule for an exception; success, a cancel and a bug have NO_RETRY."""
    return next(
        (RETRY_RULES[base] for base in type(error).__mro__ if base in RETRY_RULES), NO_RETRY
    )


# Retries ------------------------------------------------------------------------------------------


class Attempts:
    """
    The attempts of a call, for `async for`: each is a context; leave the loop after a success.

    tenacity's state is created only after a failure: its locks and thread-local storage form a
    reference cycle, which would be garbage after every successful call.

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
            raise RuntimeError("the loop over attempts continues after a success: leave it")
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
    Return the attempts of a call, with exponential backoff and full jitter.

    The n-th wait is uniform between 0 and 0.2 s * 2^n, at most 5 s.

    Parameters
    ----------
    max_retries
        Attempts after the first one (OLLAMA_MAX_RETRIES).
    before_sleep
        Awaited between attempts; makes sure that the server is up.
    may_retry
        Called with the failure; returns false once the caller has seen text.
    """
    from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

    backoff = wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)
    # Each rule has its own count: an earlier busy answer uses up no attempt of another failure
    seen: Counter[RetryRule] = Counter()

    def should_retry(state: RetryCallState) -> bool:
        rule = retry_rule_for(_find_error(state))
        seen[rule] += 1
        return may_retry(_find_error(state)) and (
            rule.attempts is None or seen[rule] < rule.attempts
        )

    def wait(state: RetryCallState) -> float:
        return max(_find_min_wait_s(_find_error(state)), backoff(state))

    return AsyncRetrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=wait,
        retry=should_retry,
        before_sleep=before_sleep,
        reraise=True,
    )


def _find_min_wait_s(error: BaseException | None) -> float:
    """Return the wait that a failure asks for: the server's Retry-After, or RUNNER_WAIT_S."""
    if isinstance(error, errors.RunnerCrashed):
        return RUNNER_WAIT_S
    asked_s = getattr(error, "facts", {}).get("retry_after_s") or 0.0
    return min(float(asked_s), MAX_ASKED_S)


def _find_error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


# The breaker --------------------------------------------------------------------------------------


class BreakerState(StrEnum):
    """Which calls a breaker lets through."""

    CLOSED = "closed"  # all calls
    OPEN = "open"  # no call
    HALF_OPEN = "half_open"  # one call, which probes the server


@dataclass(slots=True, kw_only=True)
class Breaker:
    """
    A circuit breaker: after repeated failures it stops calls; after a pause, one trial call probes
    the server.

    Used on one loop, so it needs no lock. A call is one logical call with all its attempts.

    Parameters
    ----------
    threshold
        Consecutive failures that open it.
    pause_s, longest_s
        The first pause; it doubles with each failed trial, up to the longest.
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
        """Return the state at a time."""
        if self.opened_at is None:
            return BreakerState.CLOSED
        is_over = now - self.opened_at >= self._pause_s
        return BreakerState.HALF_OPEN if is_over else BreakerState.OPEN

    def admit(self, now: float) -> bool:
        """
        Admit a call, and return whether it is the trial call.

        Report the end of every admitted call with one of the three `record_` methods.

        Raises
        ------
        CircuitOpen
            The call must not be made.
        """
        state = self.state(now)
        if state is BreakerState.CLOSED:
            return False
        if state is BreakerState.OPEN or self.trying:
            raise self._build_open_error(now)
        self.trying = True
        return True

    def _build_open_error(self, now: float) -> errors.CircuitOpen:
        since_s = now - self.opened_at if self.opened_at is not None else 0.0
        left_s = max(0.0, self._pause_s - since_s)
        when = f"the next attempt is in {left_s:.1f} s" if left_s else "one call is probing it now"
        seen = getattr(self.last, "message", repr(self.last))
        message = (
            f"the server failed {self.failures} times in a row, most recently: {seen} "
            f"The circuit is open; {when}."
        )
        return errors.CircuitOpen(
            message, fix="wait, or check the server: %urisk_status", left_s=left_s
        )

    def record_success(self) -> None:
        """Close the circuit after a successful call."""
        self.failures, self.opened_at, self.trying, self.last, self._pause_s = (
            0,
            None,
            False,
            None,
            0.0,
        )

    def record_failure(self, error: BaseException, now: float, *, trial: bool) -> None:
        """
        Count a failed call if its rule says so.

        A trial that the server correctly refuses shows that it is healthy, and closes the circuit.
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
        Note a call that its caller cancelled: it does not count, and another trial may start.
        """
        if trial:
            self.trying = False
