"""The dashboard: one a kernel, over whatever session runs in it; live while somebody looks, a
static picture afterwards.

It draws on the package's loop, some times a second, and sends what has changed. It stops when no
place shows it any more, as far as the browser says so. What is clicked is handed over to the loop
and done there; while a cell runs, the kernel hears no click, so the buttons are off and the
dashboard says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from urisk_nb import event_loop, process_state
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.snapshot import SessionSnapshot, probe_server, snapshot_without_session
from urisk_nb.notebook import panels
from urisk_nb.notebook.actions import DashboardActions, render_error
from urisk_nb.notebook.alerts import Alert, find_alerts
from urisk_nb.notebook.inspector import Inspector
from urisk_nb.notebook.session_poller import SessionPoller
from urisk_nb.notebook.view import View, close_all
from urisk_nb.server.model_server import ServerState

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Dashboard", "close_dashboard", "get_dashboard", "take_picture"]

KEY = "dashboard"
READY = (ServerState.MANAGED, ServerState.EXTERNAL, ServerState.REMOTE)
TICK_S = 0.5  # with the five parts that may change at each, fewer than ten messages a second
STATE_S = 0.1  # between two looks at the session's state, which costs nothing
# Of one processor, at most, for drawing: a tick that takes long makes the next one wait
SHARE = 0.03
MAX_SECONDS = 2.0  # between two ticks
LIST_S = 1.0  # between two lists of calls: one that changes faster can be neither read nor clicked
UNSEEN_S = 10.0  # without a word of the browser, in a kernel that is idle: nobody looks
CELL_S = 0.5  # a cell that runs longer than this keeps clicks waiting
HELD = Alert(
    text="A cell is running: the buttons are off until it has ended.",
    action="Interrupt the kernel (■) to end it now.",
    level="note",
)


class Dashboard:
    """The dashboard of this kernel; `get_dashboard()` is the one that is shown."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._loop = event_loop.loop()
        self._wake = asyncio.Event()
        self._handles: list[Any] = []
        self._views: int | None = None  # as the browser counts; None: it has said nothing yet
        self._cells = 0  # that run, one within the other
        self._shown_s = self._cell_s = self._cell_end_s = time.monotonic()
        self._drawn: tuple[Any, ...] = ()
        self._listed_s = 0.0
        self._inspector: Inspector | None = None
        self._poller = SessionPoller(self._wake.set, self._change_session)
        self._view = View(self._click, self._count_views)
        self._actions = DashboardActions(
            self._view, self._poller.snapshot, self._poller.overrides, self._after_action
        )
        shell.events.register("pre_run_cell", self._begin_cell)
        shell.events.register("post_run_cell", self._end_cell)
        self._task = event_loop.submit(self._run())

    # Life -----------------------------------------------------------------------------------------

    def show(self) -> None:
        """
        Show it in one more place. The place also holds a picture, for whoever reads the notebook
        without a kernel.
        """
        from IPython.display import display

        self._shown_s = time.monotonic()
        now = event_loop.run(self._poller.first_snapshot())
        bundle = self._view.root._repr_mimebundle_()
        bundle = {kind: bundle[kind] for kind in bundle if "widget" in kind} | _make_bundle(now)
        self._handles.append(display(bundle, raw=True, display_id=True))  # type: ignore[no-untyped-call]
        self._post()

    def close(self) -> None:
        """
        Put a picture of the last moment in every place that shows it, and end the widgets. Doing it
        again changes nothing.
        """
        if process_state.get(KEY) is not self:
            return
        last = self._poller.snapshot()
        process_state.forget(KEY)
        for name, callback in (
            ("pre_run_cell", self._begin_cell),
            ("post_run_cell", self._end_cell),
        ):
            with contextlib.suppress(ValueError):
                self._shell.events.unregister(name, callback)
        self._task.cancel()
        self._task.done.wait(1.0)
        self._post(self._poller.close)
        for handle in self._handles:
            handle.update(_make_bundle(last), raw=True)
        close_all(self._view.root)

    def _post(self, *works: Callable[[], Any]) -> None:
        """Have these done on the loop, and then draw."""
        for work in (*works, self._wake.set):
            self._loop.call_soon_threadsafe(work)

    # Called on other threads ----------------------------------------------------------------------

    def _click(self, name: str) -> None:
        if name == "calls":
            self._post(self._toggle_inspector)
        else:
            self._post(partial(self._actions.click, name))

    def _count_views(self, views: int) -> None:
        self._views = views
        self._post()

    def _begin_cell(self, _: Any = None) -> None:
        if self._cells == 0:
            self._cell_s = time.monotonic()
        self._cells += 1
        self._post()

    def _end_cell(self, _: Any = None) -> None:
        # The cell that showed the dashboard ends without having begun, as far as is known here.
        self._cells, self._cell_end_s = max(0, self._cells - 1), time.monotonic()
        self._post()

    def _change_session(self) -> None:
        """
        Another session: this is closed before it is, which registered itself just now; and its
        calls have other numbers.
        """
        with process_state.lock():
            if process_state.get(KEY) is self:
                _keep(self)
        if (inspector := self._inspector) is not None:
            self._post(inspector.put, inspector.follow)

    # On the loop ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Draw, again and again, while somebody looks."""
        while True:
            pause_s: float | None = None
            if self._is_watched():
                began_s = time.thread_time()
                try:
                    self._tick()
                except Exception as exc:  # noqa: BLE001  a picture that fails must not stop those that follow
                    self._view.say(
                        render_error(
                            f"The dashboard could not be drawn: {exc!r}.",
                            "Report it; %urisk_status has the figures.",
                        )
                    )
                pause_s = min(MAX_SECONDS, max(TICK_S, (time.thread_time() - began_s) / SHARE))
            await self._pause(pause_s)

    async def _pause(self, pause_s: float | None) -> None:
        """
        Wait until the next picture is due; less long where something was done, or where the state
        of the server has changed.
        """
        state = self._poller.state
        end_s = math.inf if pause_s is None else time.monotonic() + pause_s
        slice_s = None if pause_s is None else STATE_S
        while self._poller.state == state and time.monotonic() < end_s:
            with anyio.move_on_after(slice_s):
                await self._wake.wait()
                break
        self._wake.clear()

    def _is_watched(self) -> bool:
        if self._actions.is_at_work or self._views:
            return True
        if self._views is not None and not self._cells:
            return False
        # The browser has said nothing yet: it cannot while a cell runs, and needs a moment after
        # it.
        return self._cells > 0 or time.monotonic() - max(self._shown_s, self._cell_end_s) < UNSEEN_S

    def _tick(self) -> None:
        self._poller.poll()
        now = self._poller.snapshot()
        found = [HELD, *find_alerts(now)] if self._is_held() else find_alerts(now)
        parts = {
            "head": panels.render_head(now),
            "alerts": panels.render_alerts(found),
            "live": panels.render_live_calls(now),
        }
        drawn = (now.records[-1:], len(now.records))
        if drawn != self._drawn:  # the strip is the costly part
            self._drawn, parts["figures"] = drawn, panels.render_figures(now)
        if self._inspector is not None and time.monotonic() - self._listed_s >= LIST_S:
            self._listed_s = time.monotonic()
            self._inspector.update()
        self._view.show(parts)
        self._actions.tick(is_held=self._is_held())
        self._view.enable(self._list_enabled_buttons(now))

    def _is_held(self) -> bool:
        """Whether a cell keeps the kernel from hearing clicks."""
        return self._cells > 0 and time.monotonic() - self._cell_s > CELL_S

    def _list_enabled_buttons(self, now: SessionSnapshot) -> set[str]:
        if self._is_held():
            return set()
        if self._actions.is_busy:
            return {"calls"}
        is_managed = now.is_managed and now.state is ServerState.MANAGED
        is_well = now.state in READY and not now.probe.problem
        can = {
            "start": not is_well
            and not is_managed
            and now.state not in (ServerState.STARTING, ServerState.CRASHED),
            "warm": is_well and now.is_loaded is False and Feature.LOAD in now.features,
            "unload": is_well and now.is_loaded is True and Feature.UNLOAD in now.features,
            "restart": is_managed,
            "stop": bool(now.server_label),
            "calls": True,
        }
        return {name for name, holds in can.items() if holds}

    def _after_action(self) -> None:
        self._poller.forget()
        self._wake.set()

    def _toggle_inspector(self) -> None:
        before, self._inspector = self._inspector, None
        if before is None:
            self._inspector = Inspector(
                lambda: self._poller.snapshot().records, self._post, self._actions
            )
            self._view.place.children = (self._inspector.root,)
        else:
            self._view.place.children = ()
            close_all(before.root)


def _make_bundle(now: SessionSnapshot) -> dict[str, str]:
    return {
        "text/plain": panels.render_snapshot_text(now),
        "text/html": panels.render_snapshot(now),
    }


def get_dashboard(shell: InteractiveShell) -> Dashboard:
    """Return the kernel's dashboard, made if there is none. On the thread that runs cells."""
    with process_state.lock():
        if process_state.get(KEY) is None:
            _keep(Dashboard(shell))
        return process_state.get(KEY)  # type: ignore[no-any-return]  # kept in untyped state


def _keep(made: Dashboard) -> None:
    """As the kernel's one, and as the first to be closed at its end; under the lock."""
    process_state.forget(KEY)
    process_state.put(KEY, made)
    process_state.at_exit(KEY, close_dashboard)


def close_dashboard() -> None:
    """Close the kernel's dashboard, if there is one."""
    if (made := process_state.get(KEY)) is not None:
        made.close()


def take_picture() -> tuple[str, str]:
    """Return the dashboard as it would be now, as text and as HTML, without a widget."""

    async def now() -> SessionSnapshot:
        if (manager := LLMManager.find_instance()) is None:
            return snapshot_without_session(is_starting=LLMManager.is_starting())
        return manager.snapshot(await probe_server(manager))

    seen = event_loop.run(now())
    return panels.render_snapshot_text(seen), panels.render_snapshot(seen)
