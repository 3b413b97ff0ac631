"""
Dask clusters of processes on this machine, for tests: schedulers, workers and clients are real.
"""

import contextlib
import logging
import os
from multiprocessing import resource_tracker

import pytest
from distributed import Client, LocalCluster

# multiprocessing starts it with the first worker and keeps it: not a leak of a test
resource_tracker.ensure_running()


@contextlib.contextmanager
def open_cluster(count, **environment):
    """
    Start workers with one thread each and these environment variables, and yield a client. A worker
    has four calls in flight by default.
    """
    with pytest.MonkeyPatch.context() as patch:
        # A server that ends is not replaced
        default = {"URISK_PARALLEL": "4", "OLLAMA_AUTO_START": "0"}
        for name, value in {**default, **environment}.items():
            patch.setenv(name, value)
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )
        try:
            with Client(cluster, timeout=3, set_as_default=False) as client:
                yield client
        finally:
            cluster.close()


def list_pids(client):
    """The process of each worker, by its address."""
    return client.run(os.getpid)


def set_variables(client, of_workers):
    """Set environment variables on each worker; a restarted worker does not have them."""

    def take(given):
        import os

        os.environ.update(given)

    for worker, variables in of_workers.items():
        client.run(take, variables, workers=[worker])


def release(client):
    """End the sessions of the workers; the next run begins new ones."""
    client.unregister_worker_plugin("urisk_nb")


def list_uninterruptible(client):
    """The workers that an interrupt of this process group does not end."""

    def is_uninterruptible():
        import signal

        return signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    return {worker for worker, is_so in client.run(is_uninterruptible).items() if is_so}


def list_patched(client):
    """The workers that are safe from the profiler deadlock of Python 3.11."""

    def is_patched():
        import sys

        return sys.version_info >= (3, 12) or hasattr(sys._current_frames, "is_patched")

    return {worker for worker, is_so in client.run(is_patched).items() if is_so}
