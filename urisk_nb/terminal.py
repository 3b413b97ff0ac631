"""How far something is, told on a terminal in a line that is rewritten in place."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urisk_nb.llm.manager import StartEvent

__all__ = ["Line", "event_text"]


class Line:
    """
    A line on a terminal that is rewritten in place; elsewhere nothing but what is new, once a
    second.
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
        print(
            f"\r{text.ljust(self.width)}" if self.live else text,
            end="" if self.live else "\n",
            file=sys.stderr,
            flush=True,
        )
        self.width = len(text)

    def say(self, text: str) -> None:
        """Print this in any case, as a line that stays."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.live and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)


def event_text(event: StartEvent) -> str:
    """A step of a start or an installation, with its megabytes where it has some."""
    return (
        f"{event.text} {event.done / 1e6:.0f} of {event.total / 1e6:.0f} MB"
        if event.total
        else event.text
    )
