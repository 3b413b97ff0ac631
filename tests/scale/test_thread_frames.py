"""
The bug of Python 3.11 by which a worker stood still, and that it cannot happen any more. Each case
has a process of its own, since the bug stops it for ever.
"""

import subprocess
import sys

import pytest

# Leaves garbage that belongs to a thread, and has the collection begin in the middle of the call
CALL = """
import gc, sys, threading
from urisk_nb.scale.thread_frames import mend_current_frames
if {is_mended}:
    mend_current_frames()
    mend_current_frames()

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
    """What the process prints; None where it stands still."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", CALL.format(**given)],
            capture_output=True,
            text=True,
            timeout=30 if given["is_mended"] else 4,
        )
    except subprocess.TimeoutExpired:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 has not this bug")
def test_python_has_the_bug():
    """Else the next test could not fail, and what it tests could go."""
    assert call(is_mended=False, collects=True) is None


@pytest.mark.parametrize("collects", [True, False])
def test_the_mended_function_returns(collects):
    """With all threads, and with the collection on or off as it was."""
    assert call(is_mended=True, collects=collects) == ["61", str(collects)]
