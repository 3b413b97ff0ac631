"""The number of worker processes: the user's setting, else from cores and memory."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from urisk_nb.env_file import read_variable
from urisk_nb.errors import SettingsError

__all__ = ["MAX_WORKERS", "VARIABLE", "count_workers", "read_given_count"]

VARIABLE = "URISK_WORKERS"
MAX_WORKERS = 256
MAX_BY_DEFAULT = 32
WORKER_BYTES = 400_000_000  # memory of a worker with a long filing
CGROUP = Path("/sys/fs/cgroup")
CGROUP_V1 = CGROUP / "cpu"


def read_given_count() -> int | None:
    """
    Return URISK_WORKERS from the environment or the nearest `.env`; None if it is not set.

    Raises
    ------
    SettingsError
        It is not a number from 1 to 256.
    """
    given = read_variable(VARIABLE)
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= MAX_WORKERS):
        raise SettingsError(
            f"{VARIABLE} is {given[:40]!r}; wanted: a whole number from 1 to {MAX_WORKERS}.",
            fix="%env URISK_WORKERS=1",
            name=VARIABLE,
        )
    return int(given)


def count_workers() -> int:
    """
    Return the default number of worker processes; 1: only this process.

    It is the number of cores that this process may use (affinity and container limit), reduced if
    free memory is short, and at most 32.
    """
    return max(1, min(_count_cores(), _count_by_memory(), MAX_BY_DEFAULT))


def _count_cores() -> int:
    cores = os.cpu_count() or 1
    with contextlib.suppress(AttributeError, OSError):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    limit = _read_cpu_limit()
    return cores if limit is None else min(cores, max(1, math.ceil(limit)))


def _read_cpu_limit() -> float | None:
    """Return how many cores the container may use; None without a limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        parts = [
            int((CGROUP_V1 / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        ]
        return None if parts[0] < 0 else parts[0] / parts[1]
    return None


def _count_by_memory() -> int:
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # "max" if the container has no limit
        limit, used = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        free = min(free, limit - used)
    return int(free // WORKER_BYTES)
