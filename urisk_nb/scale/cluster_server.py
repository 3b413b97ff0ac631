"""
A model server of a cluster: the workers that can query it, its state, and its free slots.

One worker queries it at a time, so the call limit of that worker's manager holds for the server. If
the worker ends, another one of the same host takes over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from urisk_nb.errors import ClusterLost, ServerBusy, ServerNotRunning, UriskError
from urisk_nb.llm.pool import FIRST_PAUSE_S, MAX_PAUSE_S, Absence
from urisk_nb.llm.resilience import MAX_ASKED_S
from urisk_nb.scale.steps import ServerReport

__all__ = ["ClusterServer", "build_away_error"]

LOOKAHEAD = 2  # batches per server: while one ends, the other keeps the server busy


@dataclass(slots=True, eq=False)
class ClusterServer:
    """
    A model server of a cluster; used on one loop.

    Attributes
    ----------
    label
        Its address, with the host if the address is a loopback one.
    workers
        Addresses of the workers that can query it; the first one does.
    report
        How it was found; None until it was ready for the first time.
    absence
        Why it is left out; None if it is not.
    in_flight
        Number of questions sent to it and not answered yet.
    share
        Its share of the run's parallel calls; None: as many as its session allows.
    """

    label: str
    workers: list[str] = field(default_factory=list)
    report: ServerReport | None = None
    absence: Absence | None = None
    in_flight: int = 0
    share: int | None = None
    _pause_s: float = FIRST_PAUSE_S

    @property
    def asker(self) -> str:
        """The worker that queries it."""
        if not self.workers:
            raise ClusterLost(
                f"no worker is left that can query {self.label}.",
                fix="start a worker on that host, then run the cell again",
            )
        return self.workers[0]

    @property
    def is_present(self) -> bool:
        """Whether it is in use."""
        return self.report is not None and self.absence is None

    @property
    def slots(self) -> int:
        """How many calls it answers at once."""
        return 1 if self.report is None else self.report.slots

    @property
    def room(self) -> int:
        """How many more questions it can get now."""
        limit = LOOKAHEAD * self.slots if self.share is None else self.share
        return limit - self.in_flight if self.is_present else 0

    def leave_out(self, error: UriskError, *, is_soon: bool = False) -> None:
        """Stop using it until it is back; if it is out already, keep the latest error."""
        now = time.monotonic()
        asked_s = error.facts.get("retry_after_s") or error.facts.get("left_s") or 0.0
        wait_s = 0.0 if is_soon else max(self._pause_s, min(float(asked_s), MAX_ASKED_S))
        if self.absence is None:
            self.absence = Absence(error=error, since_s=now, until_s=now + wait_s)
        else:
            self.absence = replace(self.absence, error=error, until_s=now + wait_s)
        if not is_soon:
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def take_back(self, report: ServerReport) -> None:
        """Use it again; its first answer resets the pauses."""
        self.report, self.absence = report, None

    def note_answer(self) -> None:
        """Reset the pauses: it answers."""
        self._pause_s = FIRST_PAUSE_S


def build_away_error(servers: Sequence[ClusterServer]) -> UriskError:
    """Return the error for a cluster without a usable server; it names the reason of each."""
    seen = [one.absence.error for one in servers if one.absence is not None]
    kind: type[UriskError] = ServerNotRunning
    for same in (ServerBusy, ClusterLost):
        if seen and all(isinstance(error, same) for error in seen):
            kind = same
    reasons = "; ".join(
        f"{one.label}: {one.absence.error.message.rstrip('.')}"
        for one in servers
        if one.absence is not None
    )
    which = f"none of the {len(servers)} servers" if len(servers) > 1 else "no server"
    fix = "restart one of them, then run the cell again"
    return kind(f"{which} of the cluster can be used ({reasons}).", fix=fix)
