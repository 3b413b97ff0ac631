"""
Dask clusters of processes on this machine, for tests: schedulers, workers and clients are real.
"""

import contextlib
import logging
import os
from multiprocessing import resource_tracker

import pytest
from distributed import Client, LocalCluster

# multiprocessing starts it with the first worker and keeps it: it is no leak of a test
resource_tracker.ensure_running()


@contextlib.contextmanager
def open_cluster(count, **environment):
    """Start workers with one thread each, and these variables; gives a client."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
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
            with Client(cluster, set_as_default=False) as client:
                yield client
        finally:
            cluster.close()


def list_pids(client):
    """The process of each worker, by its address."""
    return client.run(os.getpid)


def set_variables(client, of_workers):
    """Give each worker variables of its own; a worker that is started again has none of them."""
    for worker, variables in of_workers.items():
        client.run(os.environ.update, variables, workers=[worker])
