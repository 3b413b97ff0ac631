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

__all__ = ["ACTIONS", "DashboardActions", "alert", "status"]

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
        self._asked, self._asked_s = "", 0.0
        self._words, self._until_s = "", 0.0
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
        Let old words and old questions go; a yes that is heard after a cell, or much later, is
        meant no more.
        """
        now_s = time.monotonic()
        if self._asked and (is_held or now_s - self._asked_s > ASKED_S):
            self._asked = ""
        if now_s > self._until_s:
            self._words = ""
        if not self.is_busy:
            self._view.say(self._words)

    def say(self, markup: str, for_s: float = WORDS_S) -> None:
        """Words that stand under the buttons for a while."""
        self._words, self._until_s = markup, time.monotonic() + for_s

    def _ask(self, name: str) -> None:
        question = ACTIONS[name][2]
        if not question:
            self._start(name)
            return
        now = self._snapshot()
        calls = len(now.live)
        words = question.format(
            model=now.model,
            others=OTHERS if now.is_shared else "",
            server=" and stops its server, unless another kernel uses it"
            if now.is_managed
            else ". The external server keeps running",
            cut=""
            if not calls
            else f" {calls} in-flight {'call' if calls == 1 else 'calls'} will be cut off.",
        )
        self._asked, self._asked_s = name, time.monotonic()
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
        self._view.say(status(f"{doing} …"), no="" if name in FINAL else "Cancel")
        try:
            await self._work(name)
            self.say(status(f"{done} in {time.monotonic() - began_s:.1f} s."))
        except asyncio.CancelledError:
            self.say(status("Cancelled."))
        except UriskError as exc:
            self.say(alert(exc.message, exc.fix), 10 * WORDS_S)
        except Exception as exc:  # noqa: BLE001  nobody awaits this: it is shown instead
            self.say(alert(f"{doing} failed: {exc!r}.", "Report it."), 10 * WORDS_S)
        finally:
            self._task = None
            self._on_end()

    def _work(self, name: str) -> Coroutine[Any, Any, Any]:
        if name == "start":
            return LLMManager.initialize(
                progress=lambda event: self._view.say(status(f"{event} …"), no="Cancel"),
                **self._overrides(),
            )
        manager = LLMManager.get_instance()
        return {
            "warm": lambda: manager.ensure_model(manager.model),
            "unload": manager.unload,
            "restart": manager.restart,
            "stop": manager.shutdown,
        }[name]()


def status(words: str) -> str:
    """Return a line that is read out when it comes."""
    return f'<div class="urisk" role="status">{escape_html(words)}</div>'


def alert(text: str, action: str) -> str:
    """Return what went wrong, and what to do."""
    return panels.render_alerts([Alert(text=text, action=action, level="error")])
