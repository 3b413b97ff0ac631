"""
The program of one worker: it reads a request, calls the function that it names, and replies.

It is run as a file, so that nothing of the user's program is run again: no `__main__` is imported,
and no script needs a guard. Standard library only; what a request needs is imported when it comes.
It ends when its caller ends: the pipe closes, or, where a copy of the caller holds that open, the
parent of this process is another one.
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
# Before the first reply. What a site prints when Python starts comes before it
GREETING = b"\0urisk_nb worker\0"
MAX_PRINTED = 1_000_000  # bytes that are skipped until it comes
WATCH_S = 0.3  # how often a worker looks whether its caller is there


def write_frame(stream: IO[bytes], *parts: bytes) -> None:
    """Write bytes, with their length before them."""
    stream.write(LENGTH.pack(sum(map(len, parts))))
    stream.writelines(parts)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """Return what `write_frame` wrote; EOFError where the stream ends before."""
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
    """Serve until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's interrupt ends this process
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    with contextlib.suppress(EOFError, OSError):
        replies.write(GREETING)
        replies.flush()
        sys.path[:] = pickle.loads(read_frame(requests))  # noqa: S301  of our caller
        while True:
            name, data = pickle.loads(read_frame(requests))  # noqa: S301
            write_frame(replies, *_serve(name, data))
    os._exit(0)  # nothing is kept, and the caller may wait


def _serve(name: str, data: bytes | None) -> tuple[bytes, bytes]:
    try:
        function = _find(name)
        return DONE, b"" if data is None else function(data)
    except Exception as exc:  # noqa: BLE001  whatever it is: the caller does the task, and sees it
        return FAILED, repr(exc).encode("utf-8", "replace")


@functools.cache
def _find(name: str) -> Callable[[bytes], bytes]:
    module, _, function = name.partition(":")
    found: Callable[[bytes], bytes] = getattr(importlib.import_module(module), function)
    return found


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(0)


if __name__ == "__main__":
    main()
