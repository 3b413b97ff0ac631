"""
The program of a worker: read a request, call the function that it names, and reply.

It runs as a file, so the user's program does not run again: `__main__` is not imported, and scripts
need no guard. It imports only the standard library; a request imports what it needs. The worker
ends with its caller: the pipe closes, or its parent changes (a fork of the caller may keep the pipe
open).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

__all__ = ["DONE", "FAILED", "main", "read_frame", "skip_greeting", "write_frame"]

LENGTH = struct.Struct("<Q")
DONE, FAILED = b"+", b"-"
GREETING = b"\0urisk_nb worker\0"  # marks the first reply: a site may print when Python starts
MAX_PRINTED = 1_000_000  # bytes that are skipped before it
POLL_S = 0.3  # how often a worker checks that its caller is alive


def write_frame(stream: IO[bytes], *parts: bytes) -> None:
    """Write bytes with their length in front."""
    stream.write(LENGTH.pack(sum(map(len, parts))))
    stream.writelines(parts)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """Return what `write_frame` wrote; raise EOFError if the stream ends before."""
    (length,) = LENGTH.unpack(_read_exactly(stream, LENGTH.size))
    return _read_exactly(stream, length)


def skip_greeting(stream: IO[bytes]) -> None:
    """Read up to the end of the greeting; EOFError where none comes."""
    seen = bytearray()
    while not seen.endswith(GREETING):
        if len(seen) > MAX_PRINTED:
            raise EOFError
        seen += _read_exactly(stream, 1)


def _read_exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Serve until the caller ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller kills this process on an interrupt
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # library output must not mix with replies
    with contextlib.suppress(EOFError, OSError):
        replies.write(GREETING)
        replies.flush()
        sys.path[:] = pickle.loads(read_frame(requests))  # noqa: S301  sent by the caller
        while True:
            name, data = pickle.loads(read_frame(requests))  # noqa: S301
            write_frame(replies, *_serve(name, data))
    os._exit(0)  # at once: there is nothing to save, and the caller may be waiting


def _serve(name: str, data: bytes | None) -> tuple[bytes, bytes]:
    try:
        function = _import_function(name)
        return DONE, b"" if data is None else function(data)
    except Exception as exc:  # noqa: BLE001  the caller runs the task again and raises it
        return FAILED, repr(exc).encode("utf-8", "replace")


@functools.cache
def _import_function(name: str) -> Callable[[bytes], bytes]:
    module, _, function = name.partition(":")
    found: Callable[[bytes], bytes] = getattr(importlib.import_module(module), function)
    return found


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(0)


if __name__ == "__main__":
    main()
