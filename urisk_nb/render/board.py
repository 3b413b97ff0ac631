"""
Outputs that appear in place: a finished one, or one that changes while work goes on.

In a notebook an output is one display that is updated; in a terminal, and in a console over a
kernel, a line that is rewritten or text that grows; in a file there is no progress. Static
(URISK_STATIC=1) it appears once, whole, as committed notebooks want it.
`urisk` in a shell shows its progress on standard error.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from urisk_nb.render.escaping import one_line, visible
from urisk_nb.render.front_end import in_console, updates_displays
from urisk_nb.render.text_layout import cut

__all__ = ["Board", "FrameBudget", "ProgressLine", "is_static", "publish"]

INTERVAL_S = 0.1  # between two frames of one output
BURST_FRAMES = 20  # that may follow each other without a pause


def is_static() -> bool:
    """Tell whether outputs are made once and whole (URISK_STATIC=1)."""
    return os.environ.get("URISK_STATIC", "").strip().lower() not in ("", "0", "false", "no", "off")


def _in_kernel() -> bool:
    return updates_displays()


def _can_rewrite() -> bool:
    return in_console() or (sys.stdout is not None and sys.stdout.isatty())


def _fit_line(text: str) -> str:
    """Return a text that the terminal does not wrap: each frame of a wrapped line would stay."""
    return cut(text, shutil.get_terminal_size().columns - 1)


class FrameBudget:
    """
    How many frames this process may send to its front end: a burst, then ten a second.

    A front end drops messages that come faster than it takes them, the last one too. One frame more
    does no harm, so the last frame of an answer need not wait; where many answers end one after the
    other, their frames do.
    """

    def __init__(self, burst: int = BURST_FRAMES, interval_s: float = INTERVAL_S) -> None:
        self.burst, self.interval_s = burst, interval_s
        self._left, self._at_s = float(burst), time.monotonic()

    def wait_s(self) -> float:
        """Return for how many seconds the next frame has to wait."""
        now_s = time.monotonic()
        self._left = min(self.burst, self._left + (now_s - self._at_s) / self.interval_s)
        self._at_s = now_s
        return max(0.0, (1 - self._left) * self.interval_s)

    def take(self) -> None:
        """Wait as long as the next frame has to, and take it."""
        if (wait_s := self.wait_s()) > 0:
            time.sleep(wait_s)
            self.wait_s()
        self._left -= 1


_BUDGET = FrameBudget()


class Board:
    """
    One output that changes in place: a streamed answer, or a line of progress.

    In a notebook it is one display that is updated at most ten times a second, the last frame
    always; in a terminal a line that is rewritten (progress) or text that grows (answers); in a
    file no progress, and text that grows; static: nothing until `finish`.
    """

    def __init__(self, *, grows: bool = False) -> None:
        self.grows = grows
        self.static = is_static()
        self.kernel = _in_kernel()
        self.live = self.kernel or grows or _can_rewrite()
        self.handle: Any = None
        self.shown = ""
        self.wait = ""  # in a terminal: the line that the first text takes the place of
        self.next_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether `show` would draw now; ask first where a frame is costly to make."""
        if self.static or not self.live or time.monotonic() < self.next_s:
            return False
        return not self.kernel or _BUDGET.wait_s() == 0

    def show(self, plain: str, markup: str | Callable[[], str]) -> None:
        """
        Draw a frame, unless the last one was just now.

        Markup that costs time to make is given as a function, which is called where it is shown.
        """
        # Half of a CRLF: what is shown of a growing text must be the beginning of what follows.
        plain = self._clean(plain.removesuffix("\r") if self.grows else plain)
        if self.is_due and plain != self.shown:
            self._draw(plain, markup)

    def show_wait(self, plain: str, markup: str) -> None:
        """
        Say what is waited for until the first text comes, which takes its place.

        In a terminal it is a line that is rewritten. Where the output goes into a file it would be
        no line that goes away, so it is not written.
        """
        if self.kernel or not self.grows:
            self.show(plain, markup)
        elif self.is_due and not self.shown and plain != self.wait and _can_rewrite():
            line = _fit_line(one_line(plain))
            print("\r" + line.ljust(len(self.wait)), end="", flush=True)
            self.wait = line

    def _clear_wait(self) -> None:
        if self.wait:
            print("\r" + " " * len(self.wait) + "\r", end="", flush=True)
            self.wait = ""

    def finish(self, plain: str, markup: str | Callable[[], str]) -> None:
        """Draw the last frame, in any case."""
        self._draw(self._clean(plain), markup)
        if not self.kernel:
            print(flush=True)

    def _clean(self, plain: str) -> str:
        """Return text as it may reach a terminal; a line that is rewritten is one line."""
        return visible(plain) if self.grows or self.kernel else one_line(plain)

    def clear(self) -> None:
        """Take the output away, as far as the place allows."""
        if self.kernel and self.handle is not None:
            self.finish("", "")
        elif self.shown and not self.kernel and not self.grows:
            print("\r" + " " * len(self.shown) + "\r", end="", flush=True)

    def _draw(self, plain: str, markup: str | Callable[[], str]) -> None:
        if not (self.kernel or self.grows):
            plain = _fit_line(plain)
        if self.kernel:
            _BUDGET.take()
        began_s = time.monotonic()
        if self.kernel:
            html = markup if isinstance(markup, str) else markup()
            self._display({"text/plain": plain, "text/html": html})
        elif self.grows:
            self._clear_wait()
            print(plain[len(self.shown) :], end="", flush=True)
        else:
            print("\r" + plain.ljust(len(self.shown)), end="", flush=True)
        self.shown = plain
        # A long text takes long to render: leave the browser at least as much time as it cost here,
        # ten times over.
        self.next_s = time.monotonic() + max(INTERVAL_S, 10 * (time.monotonic() - began_s))

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(bundle, raw=True)


def publish(plain: str, markup: str) -> None:
    """Show one finished output."""
    Board(grows=True).finish(plain, markup)


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
        text = one_line(step)
        line, end = (f"\r{text.ljust(self.width)}", "") if self.live else (text, "\n")
        print(line, end=end, file=sys.stderr, flush=True)
        self.width = len(text)

    def say(self, text: str) -> None:
        """Print this in any case, as a line that stays."""
        self.clear()
        print(visible(text), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.live and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)
