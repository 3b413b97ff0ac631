"""
What the dashboard's buttons do: ask first where something is destroyed, work on the loop, say how
it went. Never raises.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from urisk_nb.errors import UriskError
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.snapshot import SessionSnapshot
from urisk_nb.notebook import panels
from urisk_nb.notebook.alerts import Alert
from urisk_nb.notebook.view import BUTTONS, View
from urisk_nb.render.escaping import escape_html
from urisk_nb.render.text_layout import format_count

__all__ = ["ACTIONS", "DashboardActions", "render_error", "render_status"]

ASKED_S = 30.0  # a question waits so long for its answer
WORDS_S = 8.0  # how long the word about what was done stays; of what went wrong, ten times as long

# What each button does: the word while it is done, the word after it, and what is asked before it
# is done.
ACTIONS = {
    "start": ("Starting", "Started", ""),
    "warm": ("Loading the model", "Loaded", ""),
    "unload": ("Unloading", "Unloaded", "The next call loads {model} again."),
    "restart": ("Restarting", "Restarted", "This ends the server and starts another.{others}{cut}"),
    "stop": ("Stopping", "Stopped", "This ends the session{server}.{cut}"),
}
# A server that has been told to end does end: there is nothing to be cancelled
FINAL = ("restart", "stop")
OTHERS = " Other kernels of yours use it, too: their answers are cut off, and they use the new one."


class DashboardActions:
    """
    The dashboard's actions, at most one at a time; used on the loop.

    Parameters
    ----------
    view
        Whose line under the buttons says what is asked, done, or went wrong.
    snapshot
        Returns the session as it is.
    overrides
        Returns the settings for a session that is started.
    on_end
        Called after an action: what was seen before it is old.
    """

    def __init__(
        self,
        view: View,
        snapshot: Callable[[], SessionSnapshot],
        overrides: Callable[[], Mapping[str, Any]],
        on_end: Callable[[], Any],
    ) -> None:
        self._view, self._snapshot = view, snapshot
        self._overrides, self._on_end = overrides, on_end
        self._asked = self._words = ""  # the button that is asked about; the line under the buttons
        self._until_s = 0.0  # when the question or the line goes away
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is being done or asked: the other buttons are off meanwhile."""
        return self._task is not None or bool(self._asked)

    @property
    def is_at_work(self) -> bool:
        """Whether something is being done."""
        return self._task is not None

    def click(self, name: str) -> None:
        """Handle a click on a button of `ACTIONS`, or on `yes` or `no`."""
        if name == "yes" and self._asked:
            self._start(self._asked)
        elif name == "no":
            self._asked = ""
            if self._task is not None:
                self._task.cancel()
        elif name in ACTIONS and not self.is_busy:
            self._ask(name)

    def tick(self, *, is_held: bool) -> None:
        """
        Drop old words and old questions. A question also ends when a cell runs: a yes that is
        heard after the cell may no longer be meant.
        """
        is_old = time.monotonic() > self._until_s
        if is_old or is_held:
            self._asked = ""
        if is_old:
            self._words = ""
        if not self.is_busy:
            self._view.say(self._words)

    def say(self, markup: str, for_s: float = WORDS_S) -> None:
        """Show this line under the buttons for a while."""
        self._words, self._until_s = markup, time.monotonic() + for_s

    def fail(self, text: str, action: str) -> None:
        """Show what went wrong, and what to do, for ten times as long."""
        self.say(render_error(text, action), 10 * WORDS_S)

    def _ask(self, name: str) -> None:
        now = self._snapshot()
        calls = format_count(len(now.live), "in-flight call")
        words = ACTIONS[name][2].format(
            model=now.model,
            others=OTHERS if now.is_shared else "",
            server=" and stops its server, unless another kernel uses it"
            if now.is_managed
            else ". The external server keeps running",
            cut=f" {calls} will be cut off." if now.live else "",
        )
        if not words:
            self._start(name)
            return
        self._asked, self._words, self._until_s = name, "", time.monotonic() + ASKED_S
        self._view.say(
            f'<div class="urisk" role="alert">{escape_html(words)}</div>',
            yes=BUTTONS[name][0],
            no="Cancel",
        )

    def _start(self, name: str) -> None:
        self._asked = ""
        self._task = asyncio.get_running_loop().create_task(self._run(name))

    async def _run(self, name: str) -> None:
        doing, done, _ = ACTIONS[name]
        began_s = time.monotonic()
        self._view.say(render_status(f"{doing} …"), no="" if name in FINAL else "Cancel")
        try:
            await self._work(name)
            self.say(render_status(f"{done} in {time.monotonic() - began_s:.1f} s."))
        except asyncio.CancelledError:
            self.say(render_status("Cancelled."))
        except UriskError as exc:
            self.fail(exc.message, exc.fix)
        except Exception as exc:  # noqa: BLE001  nobody awaits this: it is shown instead
            self.fail(f"{doing} failed: {exc!r}.", "Report it.")
        finally:
            self._task = None
            self._on_end()

    def _work(self, name: str) -> Coroutine[Any, Any, Any]:
        if name == "start":
            return LLMManager.initialize(
                progress=lambda event: self._view.say(render_status(f"{event} …"), no="Cancel"),
                **self._overrides(),
            )
        manager = LLMManager.get_instance()
        if name == "warm":
            return manager.ensure_model(manager.model)
        return {"unload": manager.unload, "restart": manager.restart, "stop": manager.shutdown}[
            name
        ]()


def render_status(words: str) -> str:
    """Return a line that screen readers read out when it appears."""
    return f'<div class="urisk" role="status">{escape_html(words)}</div>'


def render_error(text: str, action: str) -> str:
    """Return what went wrong, and what to do, as markup."""
    return panels.render_alerts([Alert(text=text, action=action, level="error")])
