"""Trying again: which failures are worth another try, how often, and how long to wait. Never after the first token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import RunnerCrashed, ServerBusy, ServerLost, ServerNotRunning

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

__all__ = ["is_worth_another_try", "retrying"]

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0


def is_worth_another_try(error: BaseException | None, attempt: int) -> bool:
    """
    Whether the same request may succeed when it is sent again.

    Parameters
    ----------
    error
        How the try ended; None for success.
    attempt
        Its number, from 1. A runner that crashed is tried once more: twice is no accident.
    """
    if isinstance(error, RunnerCrashed):
        return attempt == 1
    return isinstance(error, ServerLost | ServerNotRunning | ServerBusy)


def retrying(max_retries: int, before_sleep: Callable[[RetryCallState], Awaitable[Any]]) -> AsyncRetrying:
    """
    Tries with full jitter: the n-th wait is uniform between 0 and 0.2 s * 2^n, at most 5 s.

    Parameters
    ----------
    max_retries
        Tries after the first one (OLLAMA_MAX_RETRIES).
    before_sleep
        Awaited between tries; makes sure that the server is up.
    """
    from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

    def again(state: RetryCallState) -> bool:
        return state.outcome is not None and is_worth_another_try(state.outcome.exception(), state.attempt_number)

    return AsyncRetrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        retry=again,
        before_sleep=before_sleep,
        reraise=True,
    )
