"""What the commands of `urisk` share: a line that tells how far something is, the demo model's weights, a look at a server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from urisk_nb.errors import FetchFailed

if TYPE_CHECKING:
    from urisk_nb.ollama.manager import StartEvent
    from urisk_nb.settings import Settings

__all__ = ["Line", "event_text", "fetched_weights", "look"]


class Line:
    """A line on a terminal that is rewritten in place; elsewhere nothing but what is new, once a second."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.width = 0
        self.next_s = 0.0

    def show(self, text: str) -> None:
        """Show this, unless something was shown a moment ago."""
        if time.monotonic() < self.next_s:
            return
        self.next_s = time.monotonic() + (0.1 if self.live else 5.0)
        print(f"\r{text.ljust(self.width)}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)
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
    return f"{event.text} {event.done / 1e6:.0f} of {event.total / 1e6:.0f} MB" if event.total else event.text


def fetched_weights() -> Path:
    """The verified file, fetched if it is not there."""
    from urisk_nb.ollama.engine import data_folder
    from urisk_nb.settings import load
    from urisk_nb.standin import weights

    folder, line = data_folder(load()), Line()
    try:
        return weights.fetch(
            folder, progress=lambda done, total: line.show(f"Fetching the demo model (93 MB, once), and checking it: {done / total:.0%}")
        )
    except weights.WeightsError as exc:
        raise FetchFailed(str(exc), fix=exc.fix) from exc
    finally:
        line.clear()


async def look(settings: Settings) -> tuple[str, list[str]]:
    """The version of the server at the address, and the names of its models."""
    from urisk_nb.ollama.client import Client

    client = Client(settings)
    try:
        return await client.version(), [model.name for model in await client.tags()]
    finally:
        await client.aclose()
