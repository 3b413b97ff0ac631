"""
What the dashboard sees: the session that runs in this kernel, looked at again and again; and what
there was to see of the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from urisk_nb.errors import NotInitialized
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import is_same_model
from urisk_nb.llm.snapshot import ServerProbe, SessionSnapshot, probe_server, take_snapshot

__all__ = ["SessionPoller"]

LOOK_S = 2.0  # between two looks at the server and its processes
FIRST_S = 0.3  # to wait for the first look before the first picture


class SessionPoller:
    """
    The facts, as they are; used on the loop, but for `known`.

    Parameters
    ----------
    changed
        Called when a look has seen something new.
    met
        Called when another session runs than before, on whatever thread sees it first.
    """

    def __init__(self, changed: Callable[[], Any], met: Callable[[], Any]) -> None:
        self._changed, self._met = changed, met
        self._look: ServerProbe | None = None
        self._look_s = -math.inf
        self._looking: asyncio.Task[None] | None = None
        self._other_num_ctx: tuple[int, float] | None = None
        # Of the session that ran last: its end must not take away what there is to see, nor how it
        # was started.
        self._calls = Calls()
        self._last_flags: Mapping[str, Any] = {}

    @property
    def state(self) -> str:
        """Of the server; costs nothing."""
        manager = _manager()
        return "" if manager is None else str(manager.state)

    def flags(self) -> Mapping[str, Any]:
        """For a start: those of the last session, where none runs; one that runs knows its own."""
        return self._last_flags if _manager() is None else {}

    async def first(self) -> SessionSnapshot:
        """
        What there is to see at once: a server that is well answers in a few milliseconds, and
        nobody waits for another.
        """
        self.poll()
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=FIRST_S)
        return self.known()

    def known(self) -> SessionSnapshot:
        """What is known without asking anybody."""
        manager = _manager()
        if manager is None:
            return replace(
                take_snapshot(None, is_starting=LLMManager.is_starting()),
                records=self._calls.records,
            )
        if manager.calls is not self._calls:
            # What was seen of the last one's server says nothing about this one's.
            self._look, self._look_s, self._other_num_ctx = None, -math.inf, None
            self._last_flags, self._calls = manager.flags, manager.calls
            self._met()
        return replace(take_snapshot(manager, self._look), other_num_ctx=self._other_num_ctx)

    def forget(self) -> None:
        """What was seen is old."""
        self._look_s = -math.inf

    def poll(self) -> None:
        """
        Ask the server and the system, where it is time to, in a task of its own: a server that
        hangs must not hold up the picture.
        """
        manager = _manager()
        if (
            manager is not None
            and self._looking is None
            and time.monotonic() - self._look_s >= LOOK_S
        ):
            self._looking = asyncio.get_running_loop().create_task(self._looked(manager))

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _looked(self, manager: LLMManager) -> None:
        try:
            seen = await probe_server(manager, self._look)
        except Exception as exc:  # noqa: BLE001  nobody awaits this: it is shown instead
            seen = ServerProbe(
                problem=f"the server could not be looked at: {exc!r}.", fix="report it"
            )
        finally:
            self._looking, self._look_s = None, time.monotonic()
        if manager is not _manager():
            return
        before, self._look = self._look, seen
        for resident in seen.loaded_models or ():
            # A server gives less than what was asked for where the model has no more: less says
            # nothing, more was somebody else.
            if (
                is_same_model(resident.name, manager.model)
                and resident.num_ctx > manager.settings.num_ctx
            ):
                self._other_num_ctx = (resident.num_ctx, time.monotonic())
        if seen != before:
            self._changed()


def _manager() -> LLMManager | None:
    with contextlib.suppress(NotInitialized):
        return LLMManager.get_instance()
    return None
