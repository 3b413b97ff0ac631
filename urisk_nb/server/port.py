"""Whose socket listens at a port, as far as the system tells (Linux does).

An answer at an address does not say which server gave it: an external server may have taken the
port first, or may run under another person's account.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["listener", "listens", "owner_uid"]


def owner_uid(port: int) -> int | None:
    """
    Return the account whose process listens on the loopback port, where the system tells (Linux);
    else None.
    """
    return next((uid for uid, _ in _read_listening_sockets(port) or ()), None)


def listener(port: int) -> int | None:
    """
    Return the process that listens on the loopback port, where the system tells (Linux, for one's
    own processes); else None.
    """
    wanted = {f"socket:[{inode}]" for _, inode in _read_listening_sockets(port) or ()}
    for folder in Path("/proc").glob("[0-9]*") if wanted else ():
        with contextlib.suppress(PermissionError):
            if wanted & _list_open_files(int(folder.name)):
                return int(folder.name)
    return None


def _list_open_files(pid: int) -> set[str]:
    """
    What a process has open, as links to `socket:[INODE]` and files; nothing for one that has just
    ended.
    """
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                found.add(str(path.readlink()))
    return found


def listens(server: int, port: int) -> bool:
    """
    Return whether it is this server, or one of its group, that listens on the port; true where the
    system does not tell (Linux does).
    """
    sockets = _read_listening_sockets(port)
    if sockets is None:
        return True
    try:
        mine = {name for pid in _list_group(server) for name in _list_open_files(pid)}
    except PermissionError:
        return True
    return any(f"socket:[{inode}]" in mine for _, inode in sockets)


def _list_group(leader: int) -> list[int]:
    """
    The processes of the server's group: `ollama` may be a script that runs the program as its
    child.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[2]) == leader:
                found.append(int(stat.parent.name))
    return found


def _read_listening_sockets(port: int) -> list[tuple[int, int]] | None:
    """
    Account and inode of each socket that listens on the port; None where the system does not tell.
    """
    found: list[tuple[int, int]] | None = None
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        listening = (fields for fields in map(str.split, lines) if fields[3] == "0A")
        found = (found or []) + [
            (int(fields[7]), int(fields[9]))
            for fields in listening
            if int(fields[1].rpartition(":")[2], 16) == port
        ]
    return found
