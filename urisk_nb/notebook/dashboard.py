"""The dashboard: one a kernel, over whatever session runs in it; live while somebody looks, a static picture afterwards.

It draws on the package's loop, some times a second, and sends what has changed. It stops when no place shows it any more, as far as the
browser says so. What is clicked is handed over to the loop and done there; while a cell runs, the kernel hears no click, so the buttons
are off and the dashboard says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from urisk_nb import bridge, runtime
from urisk_nb.errors import NotInitialized, UriskError
from urisk_nb.notebook import facts, panels
from urisk_nb.notebook.alerts import Alert, alerts
from urisk_nb.notebook.inspector import Inspector
from urisk_nb.notebook.present import escaped
from urisk_nb.notebook.view import BUTTONS, View, close_all
from urisk_nb.ollama.calls import Calls
from urisk_nb.ollama.manager import LLMManager, StartEvent

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Dashboard", "close", "picture", "running"]

KEY = "dashboard"
TICK_S = 0.5  # with the five parts that may change at each, fewer than ten messages a second
STATE_S = 0.1  # between two looks at the session's state, which costs nothing
SHARE = 0.03  # of one processor, at most, for drawing: a tick that takes long makes the next one wait
LOOK_S = 2.0  # between two looks at the server and its processes
LIST_S = 1.0  # between two lists of calls: one that changes faster can be neither read nor clicked
UNSEEN_S = 10.0  # without a word of the browser, in a kernel that is idle: nobody looks
CELL_S = 0.5  # a cell that runs longer than this keeps clicks waiting
WORDS_S = 8.0  # how long the word about what was done stays

# What each button does: the word while it is done, the word after it, and what is asked before it is done.
ACTS = {
    "start": ("Starting", "Started", ""),
    "warm": ("Loading the model", "Loaded", ""),
    "unload": ("Unloading", "Unloaded", "The next call will have to load {model} again."),
    "restart": ("Restarting", "Restarted", "The server ends and another is started.{others}{cut}"),
    "stop": ("Stopping", "Stopped", "The session ends{server}.{cut}"),
}
CHART = '<div class="urisk muted" role="status">The first chart takes some seconds: the browser is given 5 MB to draw it with.</div>'
OTHERS = " Another kernel of yours uses it, too, and goes over to the new one."


class Dashboard:
    """The dashboard of this kernel; `running()` is the one that is shown."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._loop = bridge.loop()
        self._woken = asyncio.Event()
        self._handles: list[Any] = []
        self._views: int | None = None  # as the browser counts; None: it has said nothing yet
        self._shown_s = self._cell_s = self._cell_end_s = time.monotonic()
        self._in_cell = False
        self._look: facts.Look | None = None
        self._look_s = 0.0
        self._drawn: tuple[Any, ...] = ()
        self._listed: tuple[Any, ...] = ()
        self._listed_s = 0.0
        # Of the session that ran last: its end must not take away what there is to see, nor how it was started.
        self._flags: dict[str, Any] = {}
        self._calls = Calls()
        self._asked = ""  # the act that waits for a yes
        self._act: asyncio.Task[None] | None = None
        self._words = ("", 0.0)  # about what was done, and until when
        self._inspector: Inspector | None = None
        self._view = View(self._click, self._viewed)
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)
        self._task = bridge.submit(self._run())

    # Life ------------------------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """One more place that shows it. The place also holds a picture, for whoever reads the notebook without a kernel."""
        from IPython.display import display

        self._shown_s = time.monotonic()
        now = bridge.run(self._facts())
        bundle = {"text/plain": panels.snapshot_text(now), "text/html": panels.snapshot(now)}
        widget = self._view.root._repr_mimebundle_()
        handle = display({**bundle, **{kind: widget[kind] for kind in widget if "widget" in kind}}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._handles.append(handle)
        self._post(self._woken.set)

    def close(self) -> None:
        """Put a picture of the last moment in every place that shows it, and end the widgets. Doing it again changes nothing."""
        if runtime.get(KEY) is not self:
            return
        last = self._known()
        runtime.forget(KEY)
        for name, callback in (("pre_run_cell", self._cell_begins), ("post_run_cell", self._cell_ends)):
            with contextlib.suppress(ValueError):
                self._shell.events.unregister(name, callback)
        self._task.cancel()
        self._task.done.wait(1.0)
        for handle in self._handles:
            handle.update({"text/plain": panels.snapshot_text(last), "text/html": panels.snapshot(last)}, raw=True)
        if self._inspector is not None:
            close_all(self._inspector.root)
        self._view.close()

    def _post(self, work: Callable[[], Any]) -> None:
        """Have it done on the loop."""
        self._loop.call_soon_threadsafe(work)

    # Called on other threads -----------------------------------------------------------------------------------------------

    def _click(self, name: str) -> None:
        if name == "chart" and (inspector := self._inspector) is not None:
            self._draw_chart(inspector)
        else:
            self._post(lambda: self._clicked(name))

    def _draw_chart(self, inspector: Inspector) -> None:
        """Made here, since it takes a second or two, which answers on the loop would have to wait; put in its place there."""
        chart: tuple[Any, ...] = ()
        if not inspector.is_drawn:
            self._post(lambda: self._view.say(_work("Drawing the chart")))
            try:
                chart = (inspector.make_chart(self._known().records),)
                self._post(lambda: self._tell(CHART))
            except UriskError as exc:
                words = _alert(exc.message, exc.fix)
                self._post(lambda: self._tell(words, for_s=10 * WORDS_S))
        self._post(lambda: inspector.put(*chart))
        self._post(self._woken.set)

    def _choose(self, number: int) -> None:
        self._post(lambda: self._chosen(number))

    def _viewed(self, views: int) -> None:
        self._views = views
        self._post(self._woken.set)

    def _cell_begins(self, _: Any = None) -> None:
        self._in_cell, self._cell_s = True, time.monotonic()

    def _cell_ends(self, _: Any = None) -> None:
        self._in_cell, self._cell_end_s = False, time.monotonic()
        self._post(self._woken.set)

    # On the loop -----------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Draw, again and again, while somebody looks."""
        while True:
            pause_s: float | None = None
            if self._is_watched():
                began_s = time.thread_time()
                try:
                    await self._tick()
                except Exception as exc:  # noqa: BLE001  a picture that fails must not stop those that follow
                    self._view.say(_alert(f"The dashboard could not be drawn: {exc!r}.", "Report it; %urisk_status has the figures."))
                pause_s = min(LOOK_S, max(TICK_S, (time.thread_time() - began_s) / SHARE))
            await self._pause(pause_s)

    async def _pause(self, pause_s: float | None) -> None:
        """Until the next picture is due; sooner where something was done, or the server's state is another: it may be back soon."""
        state, end_s = _state(), math.inf if pause_s is None else time.monotonic() + pause_s
        while not self._woken.is_set() and _state() == state and (left_s := end_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), None if pause_s is None else min(left_s, STATE_S))
        self._woken.clear()

    def _is_watched(self) -> bool:
        if self._act is not None or self._views:
            return True
        if self._views is not None and not self._in_cell:
            return False
        # The browser has said nothing yet: it cannot while a cell runs, and needs a moment after it.
        return self._in_cell or time.monotonic() - max(self._shown_s, self._cell_end_s) < UNSEEN_S

    async def _facts(self) -> facts.Facts:
        manager = _manager()
        if manager is None:
            self._look = None
        elif time.monotonic() - self._look_s >= LOOK_S or self._look is None:
            self._look, self._look_s = await facts.look(manager, self._look), time.monotonic()
        return self._known()

    def _known(self) -> facts.Facts:
        """What is known without asking anybody."""
        manager = _manager()
        if manager is None:
            return replace(facts.facts_of(None), records=self._calls.records)
        if manager.calls is not self._calls:
            _keep(self)  # to be closed before the session is, which registered itself just now
        self._flags, self._calls = manager.flags, manager.calls
        return facts.facts_of(manager, self._look)

    async def _tick(self) -> None:
        now = await self._facts()
        parts = {"head": panels.head(now), "alerts": panels.alert_list(self._alerts(now)), "live": panels.live(now)}
        drawn = (now.records[-1:], len(now.records))
        if drawn != self._drawn:  # the strip is the costly part
            self._drawn, parts["figures"] = drawn, panels.figures(now)
        if self._inspector is not None and drawn != self._listed and time.monotonic() - self._listed_s >= LIST_S:
            self._listed, self._listed_s = drawn, time.monotonic()
            self._inspector.update(now.records)
        self._view.show(parts)
        self._view.enable(self._enabled(now))
        self._say()

    def _alerts(self, now: facts.Facts) -> list[Alert]:
        if not self._is_held():
            return alerts(now)
        text = "A cell is running: the buttons are off until it has ended."
        return [Alert(text=text, action="Interrupt the kernel (■) to end it now.", level="note"), *alerts(now)]

    def _is_held(self) -> bool:
        """Whether a cell keeps the kernel from hearing clicks."""
        return self._in_cell and time.monotonic() - self._cell_s > CELL_S

    def _enabled(self, now: facts.Facts) -> set[str]:
        if self._is_held():
            return set()
        if self._act is not None or self._asked:
            return {"calls"}
        is_well = now.state in ("owned", "attached", "remote")
        can = {
            "start": not is_well and now.state not in ("starting", "crashed"),
            "warm": is_well and now.is_loaded is False,
            "unload": is_well and now.is_loaded is True,
            "restart": is_well and now.is_ours,
            "stop": bool(now.server),
            "calls": True,
        }
        return {name for name, holds in can.items() if holds}

    def _say(self) -> None:
        """The line under the buttons, where nothing else stands there."""
        words, until_s = self._words
        if words and time.monotonic() > until_s:
            self._words = ("", 0.0)
        if self._act is None and not self._asked:
            self._view.say(self._words[0])

    # Acts ------------------------------------------------------------------------------------------------------------------

    def _clicked(self, name: str) -> None:
        self._woken.set()
        if name == "calls":
            self._open_or_close()
        elif name in ("order", "follow"):
            if self._inspector is not None:
                self._inspector.forget(self._known().records)
        elif name == "yes" and self._asked:
            self._do(self._asked)
        elif name == "no":
            self._asked = ""
            if self._act is not None:
                self._act.cancel()
        elif name in ACTS and self._act is None:
            self._ask(name)

    def _ask(self, name: str) -> None:
        """What destroys something is done after a yes."""
        question = ACTS[name][2]
        if not question:
            self._do(name)
            return
        now = self._known()
        calls = len(now.live)
        words = question.format(
            model=now.model,
            others=OTHERS if now.is_shared else "",
            server=", and its server with it, unless another kernel uses it" if now.is_ours else "; the server, which is not ours, goes on",
            cut="" if not calls else f" {calls} {'call is' if calls == 1 else 'calls are'} under way and will be cut off.",
        )
        self._asked = name
        self._view.say(f'<div class="urisk" role="alert">{escaped(words)}</div>', yes=BUTTONS[name][0], no="Cancel")

    def _do(self, name: str) -> None:
        self._asked = ""
        self._act = asyncio.get_running_loop().create_task(self._done(name))

    async def _done(self, name: str) -> None:
        """Do it, say what came of it, and never raise: there is nobody to hear."""
        doing, done, _ = ACTS[name]
        began_s = time.monotonic()
        self._view.say(_work(doing), no="Cancel")
        try:
            await self._work(name)
            self._tell(f'<div class="urisk" role="status">{done} in {time.monotonic() - began_s:.1f} s.</div>')
        except asyncio.CancelledError:
            self._tell('<div class="urisk" role="status">Given up.</div>')
        except UriskError as exc:
            self._tell(_alert(exc.message, exc.fix), for_s=10 * WORDS_S)
        except Exception as exc:  # noqa: BLE001  shown instead
            self._tell(_alert(f"{doing} failed: {exc!r}.", "Report it."), for_s=10 * WORDS_S)
        finally:
            self._act, self._look_s = None, 0.0
            self._woken.set()

    def _work(self, name: str) -> Coroutine[Any, Any, Any]:
        if name == "start":
            return LLMManager.initialize(progress=self._progress, **(self._flags if _manager() is None else {}))
        manager = LLMManager.get_instance()
        return {
            "warm": lambda: manager.have(manager.model),
            "unload": manager.unload,
            "restart": manager.restart,
            "stop": manager.shutdown,
        }[name]()

    def _progress(self, event: StartEvent) -> None:
        share = f" {event.done / 1e6:,.0f} of {event.total / 1e6:,.0f} MB" if event.total else ""
        self._view.say(_work(event.text + share), no="Cancel")

    def _tell(self, markup: str, for_s: float = WORDS_S) -> None:
        self._words = (markup, time.monotonic() + for_s)

    # Inspector -------------------------------------------------------------------------------------------------------------

    def _open_or_close(self) -> None:
        if self._inspector is not None:
            before, self._inspector = self._inspector, None
            self._view.put()
            close_all(before.root)
            return
        self._inspector = Inspector(self._click, self._choose)
        self._inspector.update(self._known().records)
        self._view.put(self._inspector.root)

    def _chosen(self, number: int) -> None:
        if self._inspector is not None:
            self._inspector.choose(number, self._known().records)


def _work(words: str) -> str:
    return f'<div class="urisk" role="status">{escaped(words)} …</div>'


def _alert(text: str, action: str) -> str:
    return panels.alert_list([Alert(text=text, action=action, level="error")])


def _manager() -> LLMManager | None:
    with contextlib.suppress(NotInitialized):
        return LLMManager.get_instance()
    return None


def _state() -> str:
    manager = _manager()
    return "" if manager is None else str(manager.state)


def running(shell: InteractiveShell) -> Dashboard:
    """The kernel's dashboard, made if there is none. On the thread that runs cells."""
    with runtime.lock():
        if runtime.get(KEY) is None:
            _keep(Dashboard(shell))
        return runtime.get(KEY)  # type: ignore[no-any-return]  # kept in untyped state


def _keep(made: Dashboard) -> None:
    """As the kernel's one, and as the first to be closed at its end."""
    with runtime.lock():
        runtime.forget(KEY)
        runtime.put(KEY, made)
        runtime.at_exit(KEY, close)


def close() -> None:
    """Close the kernel's dashboard, if there is one."""
    made = runtime.get(KEY)
    if made is not None:
        made.close()


def picture() -> tuple[str, str]:
    """The dashboard as it would be now, as text and as HTML, without a widget."""
    manager = _manager()

    async def now() -> facts.Facts:
        return facts.facts_of(manager, None if manager is None else await facts.look(manager))

    seen = bridge.run(now())
    return panels.snapshot_text(seen), panels.snapshot(seen)
