"""
A deadlock of Python 3.11 blocked workers; the patch prevents it. Each case has its own process,
since the bug blocks it forever.
"""

import subprocess
import sys

import pytest

# Leaves thread-local garbage, and makes the collection start in the middle of the call
CALL = """
import gc, sys, threading
from urisk_nb.scale.thread_frames import patch_current_frames
if {is_patched}:
    patch_current_frames()
    patch_current_frames()

class Loop:
    def __init__(self):
        self.me, self.local = self, threading.local()
        self.local.value = 1

for _ in range(60):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
gc.collect()
gc.disable()
Loop()
gc.set_threshold(gc.get_count()[0] + 20)
if {collects}:
    gc.enable()
frames = sys._current_frames()
print(len(frames), gc.isenabled(), flush=True)
"""


def call(**given):
    """What the process prints; None if it deadlocks."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", CALL.format(**given)],
            capture_output=True,
            text=True,
            timeout=30 if given["is_patched"] else 4,
        )
    except subprocess.TimeoutExpired:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 does not have this bug")
def test_python_has_the_bug():
    """Without the bug, the next test could not fail, and the patch would be unnecessary."""
    assert call(is_patched=False, collects=True) is None


@pytest.mark.parametrize("collects", [True, False])
def test_the_patched_function_returns(collects):
    """It lists all threads, and leaves garbage collection on or off as it was."""
    assert call(is_patched=True, collects=collects) == ["61", str(collects)]
