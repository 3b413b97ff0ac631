"""
Work around a deadlock in Python 3.11 that can block a worker forever.

In 3.11, `sys._current_frames()` holds an interpreter lock while it allocates objects, which can
trigger a garbage collection. If that collection frees thread-local data, or another thread ends
meanwhile, both wait for the same lock. 3.11 never got the fix of 3.12:
https://github.com/python/cpython/issues/106883. Dask's profiler calls the function a hundred times
a second while a task runs, and the jobs of a run are threads that start and end meanwhile.
"""

from __future__ import annotations

import functools
import gc
import sys
from types import FrameType

__all__ = ["patch_current_frames"]

PATCHED = "is_patched"  # marks the replacement


def patch_current_frames() -> None:
    """Turn off garbage collection during `sys._current_frames`, on Python 3.11 only."""
    unsafe = sys._current_frames
    if sys.version_info >= (3, 12) or hasattr(unsafe, PATCHED):
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

    setattr(list_frames, PATCHED, True)
    sys._current_frames = list_frames
