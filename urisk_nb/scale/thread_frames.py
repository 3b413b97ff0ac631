"""
Python 3.11 alone: what keeps a worker from standing still for ever.

There `sys._current_frames()` holds a lock of the interpreter while it makes objects, and that may
begin a garbage collection. If the collection frees what belongs to one thread, or lets another
thread end, these wait for the same lock. The bug was not mended in 3.11, and is not in 3.12:
https://github.com/python/cpython/issues/106883. Dask's profiler calls the function a hundred times
a second while a task runs, and the jobs of a run are threads that begin and end meanwhile.
"""

from __future__ import annotations

import functools
import gc
import sys
from types import FrameType

__all__ = ["mend_current_frames"]

MENDED = "is_mended"  # marks the function that collects nothing


def mend_current_frames() -> None:
    """Have `sys._current_frames` collect no garbage in this process, where Python is 3.11."""
    unsafe = sys._current_frames
    if sys.version_info >= (3, 12) or hasattr(unsafe, MENDED):
        return

    @functools.wraps(unsafe)
    def list_frames() -> dict[int, FrameType]:
        is_on = gc.isenabled()
        gc.disable()
        try:
            return unsafe()
        finally:
            if is_on:
                gc.enable()

    setattr(list_frames, MENDED, True)
    sys._current_frames = list_frames
