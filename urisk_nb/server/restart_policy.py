"""How often and how soon a server that ended is started again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["RestartPolicy"]


@dataclass(slots=True, kw_only=True)
class RestartPolicy:
    """
    How often and how soon a server that ended is started again: 0.5, 2 and 8 s after, at most three
    times in five minutes.

    Parameters
    ----------
    pauses_s
        Before each start; as many starts as pauses.
    within_s
        In this span.
    """

    pauses_s: tuple[float, ...] = (0.5, 2.0, 8.0)
    within_s: float = 300.0
    times: list[float] = field(default_factory=list)

    def next(self, now: float, jitter: Callable[[], float] = random.random) -> float | None:
        """
        Return seconds to wait before the next start, half to the whole of the pause, or None where
        there is none; remembers it.
        """
        self.times = [at for at in self.times if now - at < self.within_s]
        if len(self.times) >= len(self.pauses_s):
            return None
        pause_s = self.pauses_s[len(self.times)]
        self.times.append(now)
        return pause_s * (0.5 + 0.5 * jitter())
