"""
What keeps the workers of a notebook's own cluster alive when a cell is interrupted.

Jupyter, and a terminal, send an interrupt to the whole process group of the kernel. The workers of
a `LocalCluster` are in that group. Dask has no answer to the signal there: the workers end, their
nannies take that for a wish, and the cluster is left without a worker.
"""

from __future__ import annotations

import signal
import threading

from distributed import Worker

__all__ = ["leave_interrupts_to_nanny"]


def leave_interrupts_to_nanny(worker: Worker) -> None:
    """
    Ignore interrupts in a worker whose nanny decides when it ends; without one nothing is changed.

    Python takes this from the main thread alone, which is where a nanny runs its worker.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if worker.nanny and is_main:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
