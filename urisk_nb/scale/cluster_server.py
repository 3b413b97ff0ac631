"""
A model server of a cluster: the workers that can ask it, what they found, whether it is away.

One worker asks it at a time, with the manager of its process, whose own limit then holds for the
server. The others of the same host take over where it ends.
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

LOOKAHEAD = 2  # batches at a server: while one of them ends, the other keeps it busy


@dataclass(slots=True, eq=False)
class ClusterServer:
    """
    A model server of a cluster; used on one loop.

    Attributes
    ----------
    label
        Its address, and the host where the address is the host's own.
    workers
        Addresses of the workers that can ask it; the first one does.
    report
        What was found of it; None until it was ready for the first time.
    absence
        Why it is left out, if it is.
    in_flight
        Questions at it.
    part
        Its part of the calls that the run asks for; None: as many as its session allows.
    """

    label: str
    workers: list[str] = field(default_factory=list)
    report: ServerReport | None = None
    absence: Absence | None = None
    in_flight: int = 0
    part: int | None = None
    _pause_s: float = FIRST_PAUSE_S

    @property
    def asker(self) -> str:
        """The worker that asks it."""
        if not self.workers:
            raise ClusterLost(
                f"no worker is left that can ask {self.label}.",
                fix="start a worker there, then run the cell once more",
            )
        return self.workers[0]

    @property
    def is_present(self) -> bool:
        """Whether it may be asked."""
        return self.report is not None and self.absence is None

    @property
    def slots(self) -> int:
        """How many calls it answers at once."""
        return 1 if self.report is None else self.report.slots

    @property
    def room(self) -> int:
        """How many more questions it may be given."""
        most = LOOKAHEAD * self.slots if self.part is None else self.part
        return most - self.in_flight if self.is_present else 0

    def leave_out(self, error: UriskError, *, is_soon: bool = False) -> None:
        """Ask it no more until it is back; where it is out, note what is seen of it now."""
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
        """Ask it again; the pauses begin anew with the first answer."""
        self.report, self.absence = report, None

    def note_answer(self) -> None:
        """Note that it is well."""
        self._pause_s = FIRST_PAUSE_S


def build_away_error(servers: Sequence[ClusterServer]) -> UriskError:
    """Return why no server can be asked: each with what was seen of it."""
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
    count = f"the {len(servers)} servers" if len(servers) > 1 else "the servers"
    fix = "start one of them again, then run the cell once more"
    return kind(f"none of {count} of the cluster can be asked ({reasons}).", fix=fix)
