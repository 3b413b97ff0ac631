"""
What a server's processes hold of this machine's memory, as far as this account may see them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["MemoryUsage", "measure_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUsage:
    """
    A server and its runners at one moment.

    Attributes
    ----------
    pid, started_at
        Of the server (UTC).
    server_bytes, runner_bytes
        Resident memory of the server, and of all processes below it (one for each model in memory),
        bytes. The pages of a model file that is mapped count as far as they are in memory; what
        lies on a GPU does not.
    runners
        How many processes there are below it.
    """

    pid: int
    started_at: datetime
    server_bytes: int
    runner_bytes: int
    runners: int


def measure_memory(pid: int) -> MemoryUsage | None:
    """
    Measure the server with this process id; None where there is none, or it may not be looked at.
    Blocks about a millisecond on Linux.
    """
    import psutil

    below: list[int] = []
    try:
        server = psutil.Process(pid)
        began_s, held = server.create_time(), server.memory_info().rss
        for child in _list_descendants(pid):
            with contextlib.suppress(psutil.Error):  # it has ended since
                below.append(psutil.Process(child).memory_info().rss)
    except psutil.Error:
        return None
    return MemoryUsage(
        pid=pid,
        started_at=datetime.fromtimestamp(began_s, UTC),
        server_bytes=held,
        runner_bytes=sum(below),
        runners=len(below),
    )


def _list_descendants(pid: int) -> list[int]:
    """
    The processes below this one. From the system's own list where it has one: psutil looks at every
    process of the machine.
    """
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # the process ends at this moment
        lists = []
    if not lists:
        import psutil

        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    children = [int(child) for child in " ".join(lists).split()]
    return children + [below for child in children for below in _list_descendants(child)]
