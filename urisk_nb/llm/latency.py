"""Where a call's time went: by the server's counters, and by our clock."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from urisk_nb.llm.messages import Final

__all__ = ["CallTiming", "percentile", "timing_of"]


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
        Our clock, from the sending of the request (the last try) to the first piece and to the end.
    wait_s
        Before the first try was sent: our own queue, until a call more may be in flight, and a
        server that was being started again.
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
        """From the asking to the end, by our clock; of a call that was never sent, the wait."""
        return self.wait_s + self.retry_s + (0.0 if math.isnan(self.total_s) else self.total_s)

    @property
    def tokens_per_s(self) -> float:
        """
        Tokens of the answer for each second of generation; NaN where either is unknown, and for a
        single token.

        The first token comes with the prompt, and the server counts the generation's time from it
        on: that time is of the others.
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
    Return the timing of a call from the end of its reply, our clock, and what else is known here:
    `wait_s`, `attempts`, ...
    """
    spent_ns = final.load_ns + final.prompt_ns + final.generation_ns
    # llama.cpp tells its phases and not its total: what our clock has beyond them is the queue.
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
