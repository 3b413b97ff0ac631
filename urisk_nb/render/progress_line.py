"""Progress on a terminal: one line that is rewritten in place."""

from __future__ import annotations

import sys
import time
from typing import Protocol

__all__ = ["ProgressLine", "Step", "format_step"]


class Step(Protocol):
    """A step of some work, with its bytes where it has some; `total` is 0 where it has none."""

    @property
    def text(self) -> str:
        """What is being done."""

    @property
    def done(self) -> int:
        """Bytes that are there."""

    @property
    def total(self) -> int:
        """Bytes in all."""


def format_step(step: Step) -> str:
    """Return a step with its megabytes, where it has some."""
    if not step.total:
        return step.text
    return f"{step.text} {step.done / 1e6:,.0f} of {step.total / 1e6:,.0f} MB"


class ProgressLine:
    """
    A line on standard error that is rewritten in place; where that is no terminal, a new line every
    five seconds.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.width = 0
        self.next_s = 0.0

    def show(self, text: str) -> None:
        """Show this, unless something was shown a moment ago."""
        if time.monotonic() < self.next_s:
            return
        self.next_s = time.monotonic() + (0.1 if self.live else 5.0)
        line, end = (f"\r{text.ljust(self.width)}", "") if self.live else (text, "\n")
        print(line, end=end, file=sys.stderr, flush=True)
        self.width = len(text)

    def show_step(self, step: Step) -> None:
        """Show a step of some work."""
        self.show(format_step(step))

    def say(self, text: str) -> None:
        """Print this in any case, as a line that stays."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.live and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)
