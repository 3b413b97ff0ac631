"""
The worker's side: the plugin that keeps its jobs and its manager, and the functions Dask runs.

A job leaves Dask's thread pool at once, since it waits for a model server and computes nothing. So
a worker with one thread can have several jobs in flight, and its other tasks continue.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import platform
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker, secede

from urisk_nb import event_loop
from urisk_nb.address import is_loopback
from urisk_nb.errors import UriskError, WorkerLost
from urisk_nb.llm.manager import LLMManager
from urisk_nb.scale.interrupts import leave_interrupts_to_nanny
from urisk_nb.scale.steps import drop_forwarded_settings
from urisk_nb.scale.thread_frames import patch_current_frames
from urisk_nb.settings import load

__all__ = ["PLUGIN", "ManagerPlugin", "WorkerPlace", "cancel_jobs", "describe_worker", "run_job"]

PLUGIN = "urisk_nb"
_SETUP = threading.Lock()
MAX_CANCELLED = 1000  # remembered ids of jobs that were cancelled before they began


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """
    Where a worker runs and which server it would use; found without contacting the server.

    Attributes
    ----------
    server
        Identifies the server: its address, with the host if the address is a loopback one.
    """

    host: str
    pid: int
    server: str


class ManagerPlugin(WorkerPlugin):
    """
    A Dask plugin that keeps the jobs of one worker, and shuts down its manager with the worker.

    Registered once with the scheduler, which also sets it up on workers that join later.
    """

    name = PLUGIN
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Start without jobs; the first job starts the manager."""
        patch_current_frames()
        leave_interrupts_to_nanny(worker)
        self._lock = threading.Lock()
        self._calls: dict[str, event_loop.Call[Any]] = {}
        self._cancelled: deque[str] = deque(maxlen=MAX_CANCELLED)

    async def teardown(self, worker: Worker) -> None:  # noqa: ARG002  Dask's signature
        """Shut down the manager of this process and any server that it started."""
        self.cancel(list(self._calls))
        if (manager := LLMManager.find_instance()) is not None:
            await manager.shutdown()

    def run(self, job: str, step: Callable[..., Awaitable[Any]], args: Sequence[Any]) -> Any:
        """
        Run a step and block until it ends.

        Raises
        ------
        WorkerLost
            The job was cancelled, or this plugin was removed.
        """
        with self._lock:
            if job in self._cancelled:
                raise _build_end_error()
            call = self._calls[job] = event_loop.submit(_await(step, args))
        try:
            return call.wait()
        except asyncio.CancelledError as exc:
            raise _build_end_error() from exc
        finally:
            with self._lock:
                del self._calls[job]

    def cancel(self, jobs: Sequence[str]) -> None:
        """Stop jobs, also on the model server; one that has not begun never begins."""
        with self._lock:
            self._cancelled.extend(jobs)
            calls = [self._calls[job] for job in jobs if job in self._calls]
        for call in calls:
            call.cancel()


def _build_end_error() -> WorkerLost:
    return WorkerLost("the session of a worker ended during the call.", fix="run the cell again")


async def _await(step: Callable[..., Awaitable[Any]], args: Sequence[Any]) -> Any:
    return await step(*args)


def run_job(job: str, content: bytes) -> bytes:
    """
    Run a step as a Dask task.

    Parameters
    ----------
    job
        Its id, for `cancel_jobs`.
    content
        The step and its arguments, pickled: Dask would search plain lists and strings for its own
        keys.

    Returns
    -------
    bytes
        The result of the step, or the UriskError that it raises, pickled. If it were raised, Dask
        would write a traceback into the cell of a notebook that started the cluster.
    """
    worker = get_worker()
    secede()  # type: ignore[no-untyped-call]
    step, args = pickle.loads(content)  # noqa: S301  sent by the cluster's client
    try:
        result = _get_plugin(worker).run(job, step, args)
    except UriskError as exc:
        result = exc
    return pickle.dumps(result)


def _get_plugin(worker: Worker) -> ManagerPlugin:
    """Return the plugin of a worker; create it if a new scheduler does not know it."""
    with _SETUP:
        plugin = worker.plugins.get(PLUGIN)
        if not isinstance(plugin, ManagerPlugin):
            plugin = ManagerPlugin()
            plugin.setup(worker)
            worker.plugins[PLUGIN] = plugin
        return plugin


def cancel_jobs(jobs: Sequence[str], dask_worker: Worker) -> None:
    """Cancel jobs of a worker; runs on the worker's event loop, beside its tasks."""
    plugin = dask_worker.plugins.get(PLUGIN)
    if isinstance(plugin, ManagerPlugin):
        plugin.cancel(jobs)


def describe_worker(overrides: Mapping[str, Any], dask_worker: Worker) -> WorkerPlace:
    """
    Return where this worker runs and which server it would use.

    Raises
    ------
    SettingsError
        An environment variable of the worker, or a line of its `.env`, cannot be used.
    """
    manager, host = LLMManager.find_instance(), platform.node()
    own = {} if manager is None else drop_forwarded_settings(manager.overrides)
    settings = load(**own, **overrides)
    is_own = any(is_loopback(one.host) for one in settings.each_server)
    # Machines cloned from one image may share a host name
    server = f"{settings.url} on {host} ({dask_worker.ip})" if is_own else settings.url
    return WorkerPlace(host=host, pid=os.getpid(), server=server)
