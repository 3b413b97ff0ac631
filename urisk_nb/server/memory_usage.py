"""
What a server's processes hold of this machine's memory, as far as this account may see them. The
only importer of psutil.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

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
    Of the server with this process id; None where there is none, or it may not be looked at. Blocks
    about a millisecond on Linux.
    """
    import psutil

    try:
        server = psutil.Process(pid)
        began_s, held = server.create_time(), server.memory_info().rss
        below = [_held(child) for child in _below(server)]
    except psutil.Error:
        return None
    return MemoryUsage(
        pid=pid,
        started_at=datetime.fromtimestamp(began_s, UTC),
        server_bytes=held,
        runner_bytes=sum(below),
        runners=len(below),
    )


def _below(process: psutil.Process) -> list[psutil.Process]:
    """
    The processes below this one. Not by psutil's own list where the system has one: psutil looks at
    every process of the machine.
    """
    import psutil

    try:
        lists = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    except OSError:  # the server ends at this moment
        lists = []
    if not lists:
        return process.children(recursive=True)
    found = []
    for pid in map(int, " ".join(lists).split()):
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(pid)
            found += [child, *_below(child)]
    return found


def _held(process: psutil.Process) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has ended since
