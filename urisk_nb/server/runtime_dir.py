"""
Where the guardian of an address and the kernels that share its server meet: a folder, its locks,
and which folders can be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from urisk_nb.settings import Settings

if sys.platform != "win32":
    import fcntl

__all__ = ["folder", "has_guardian", "start_lock"]

# How long another kernel's start may take; a guardian's own start waits for the old server's end,
# at most some 1.5 s
LOCK_S = 15.0
MAX_ADDRESS_BYTES = 100  # of an AF_UNIX socket: 104 on macOS, 108 on Linux, with the end mark


def folder(settings: Settings) -> Path | None:
    """
    Return the folder where guardian and leases of this address meet: one that only this user can
    enter; None where there is no such place.

    Under XDG_RUNTIME_DIR, else under the folder for temporary files; one whose path is too long for
    a socket is passed over.
    """
    if os.name == "nt":
        return None
    name = hashlib.sha256(f"{settings.host}:{settings.port}".encode()).hexdigest()[:12]
    bases = [os.environ.get("XDG_RUNTIME_DIR", "")]
    with contextlib.suppress(FileNotFoundError):  # no folder for temporary files can be written
        bases.append(tempfile.gettempdir())
    bases.append("/tmp")  # noqa: S108  the folder below it is made private
    for base in dict.fromkeys(filter(None, bases)):
        place = Path(base) / f"urisk-{os.getuid()}"
        if (
            len(str(place / name / "g.sock").encode()) <= MAX_ADDRESS_BYTES
            and _is_private(place)
            and _is_private(place / name)
        ):
            return place / name
    return None


def _is_private(place: Path) -> bool:
    """Make the folder if it is not there; return whether it is this user's and closed to others."""
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        facts = place.lstat()
        return (
            facts.st_uid == os.getuid()
            and not place.is_symlink()
            and not facts.st_mode & 0o077
            and os.access(place, os.W_OK | os.X_OK)
        )
    except OSError:
        return False


@asynccontextmanager
async def start_lock(place: Path) -> AsyncIterator[None]:
    """Allow one start at a time among all kernels of this user, without blocking the loop."""
    with (place / "start.lock").open("a") as file:
        async with asyncio.timeout(LOCK_S):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.01)
        try:
            yield
        finally:
            # Closing would not do where a forked child holds a copy of the file
            fcntl.flock(file, fcntl.LOCK_UN)


def has_guardian(place: Path | None) -> bool:
    """
    Return whether a guardian is at work at the folder, though it may let nobody join any more: it
    stops its server.
    """
    if place is None:
        return False
    with contextlib.suppress(OSError), (place / "owner.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(lock, fcntl.LOCK_UN)
    return False
