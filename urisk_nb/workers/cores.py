"""How many worker processes there may be: what the user says, else cores and memory."""

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
WORKER_BYTES = 400_000_000  # what a worker with a long filing may take
CGROUP = Path("/sys/fs/cgroup")
CGROUP_V1 = CGROUP / "cpu"


def read_given_count() -> int | None:
    """
    Return what URISK_WORKERS says, in the environment or in the nearest `.env`; None: nothing.

    Raises
    ------
    SettingsError
        It is no number from 1 to 256.
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
    Return how many worker processes may read where the user says nothing: 1 is this process alone.

    The cores that this process may use (affinity and the limit of a container), as far as the free
    memory goes.
    """
    return max(1, min(_count_cores(), _count_by_memory(), MAX_BY_DEFAULT))


def _count_cores() -> int:
    cores = os.cpu_count() or 1
    with contextlib.suppress(AttributeError, OSError):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    limit = _read_cpu_limit()
    return cores if limit is None else min(cores, max(1, math.ceil(limit)))


def _read_cpu_limit() -> float | None:
    """Return how many cores the container of this process may use; None where none says so."""
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
    with contextlib.suppress(OSError, ValueError):  # "max" where the container has no limit
        limit, used = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        free = min(free, limit - used)
    return int(free // WORKER_BYTES)
