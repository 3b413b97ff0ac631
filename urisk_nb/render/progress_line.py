"""Progress on a terminal: one line that is rewritten in place."""

from __future__ import annotations

import sys
import time

__all__ = ["ProgressLine"]


class ProgressLine:
    """
    A line on standard error that is rewritten in place; where that is no terminal, a new line every
    five seconds.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.width = 0
        self.next_s = 0.0

    def show(self, step: object) -> None:
        """Show a text, or a step of some work, unless something was shown a moment ago."""
        if time.monotonic() < self.next_s:
            return
        self.next_s = time.monotonic() + (0.1 if self.live else 5.0)
        text = str(step)
        line, end = (f"\r{text.ljust(self.width)}", "") if self.live else (text, "\n")
        print(line, end=end, file=sys.stderr, flush=True)
        self.width = len(text)

    def say(self, text: str) -> None:
        """Print this in any case, as a line that stays."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.live and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)
