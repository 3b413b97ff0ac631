"""Poll the session that runs in this kernel, and keep what was seen of the last one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from urisk_nb.llm.calls import Calls
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import is_same_model
from urisk_nb.llm.snapshot import (
    ServerProbe,
    SessionSnapshot,
    probe_server,
    snapshot_without_session,
)

__all__ = ["SessionPoller"]

PROBE_S = 2.0  # between two probes of the server and its processes
FIRST_S = 0.3  # to wait for the first probe before the first picture


class SessionPoller:
    """
    Snapshots of the session for the dashboard; used on the loop, but for `snapshot`.

    Parameters
    ----------
    on_change
        Called when a probe has seen something new.
    on_new_session
        Called when another session runs than before, on whatever thread sees it first.
    """

    def __init__(self, on_change: Callable[[], Any], on_new_session: Callable[[], Any]) -> None:
        self._on_change, self._on_new_session = on_change, on_new_session
        self._probe: ServerProbe | None = None
        self._probed_s = -math.inf
        self._probing: asyncio.Task[None] | None = None
        self._other_num_ctx: tuple[int, float] | None = None
        # Of the session that ran last: its end must not take away what there is to see, nor how it
        # was started.
        self._calls = Calls()
        self._last_overrides: Mapping[str, Any] = {}

    @property
    def state(self) -> str:
        """The server's state; costs nothing."""
        manager = LLMManager.find_instance()
        return "" if manager is None else str(manager.state)

    def overrides(self) -> Mapping[str, Any]:
        """Return the settings to start with: the last session's where none runs, else none."""
        return self._last_overrides if LLMManager.find_instance() is None else {}

    async def first_snapshot(self) -> SessionSnapshot:
        """
        Return the first snapshot; a healthy server answers the probe in a few milliseconds, and
        another one is not waited for.
        """
        self.poll()
        if self._probing is not None:
            await asyncio.wait({self._probing}, timeout=FIRST_S)
        return self.snapshot()

    def snapshot(self) -> SessionSnapshot:
        """Return what is known without asking the server."""
        manager = LLMManager.find_instance()
        if manager is None:
            return replace(
                snapshot_without_session(is_starting=LLMManager.is_starting()),
                records=self._calls.records,
            )
        if manager.calls is not self._calls:
            # What was seen of the last one's server says nothing about this one's.
            self._probe, self._probed_s, self._other_num_ctx = None, -math.inf, None
            self._calls = manager.calls
            self._on_new_session()
        self._last_overrides = manager.overrides  # a running session takes other ones
        return replace(manager.snapshot(self._probe), other_num_ctx=self._other_num_ctx)

    def forget(self) -> None:
        """Probe again at the next poll: what was seen is old."""
        self._probed_s = -math.inf

    def poll(self) -> None:
        """
        Probe the server and the system where it is time to, in a task of its own: a server that
        hangs must not hold up the picture.
        """
        manager = LLMManager.find_instance()
        if (
            manager is not None
            and self._probing is None
            and time.monotonic() - self._probed_s >= PROBE_S
        ):
            self._probing = asyncio.get_running_loop().create_task(self._run_probe(manager))

    def close(self) -> None:
        """End a probe that is under way."""
        if self._probing is not None:
            self._probing.cancel()

    async def _run_probe(self, manager: LLMManager) -> None:
        try:
            seen = await probe_server(manager, self._probe)
        except Exception as exc:  # noqa: BLE001  nobody awaits this: it is shown instead
            seen = ServerProbe(problem=f"the server could not be probed: {exc!r}.", fix="report it")
        finally:
            self._probing, self._probed_s = None, time.monotonic()
        if manager is not LLMManager.find_instance():
            return
        before, self._probe = self._probe, seen
        for model in seen.loaded_models or ():
            # A server gives less than what was asked for where the model has no more: less says
            # nothing, more was somebody else.
            if is_same_model(model.name, manager.model) and model.num_ctx > manager.num_ctx:
                self._other_num_ctx = (model.num_ctx, time.monotonic())
        if seen != before:
            self._on_change()
