"""
What keeps the workers of a notebook's own cluster alive when a cell is interrupted.

Jupyter and terminals send an interrupt to the whole process group of the kernel. The workers of a
`LocalCluster` belong to that group. Dask does not handle the signal there: the workers end, their
nannies do not restart them, and the cluster has no worker left.
"""

from __future__ import annotations

import signal
import threading

from distributed import Worker

__all__ = ["leave_interrupts_to_nanny"]


def leave_interrupts_to_nanny(worker: Worker) -> None:
    """
    Ignore interrupts in a worker that has a nanny, which ends it by other means.

    Python accepts this only in the main thread, which is where a nanny runs its worker.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if worker.nanny and is_main:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
