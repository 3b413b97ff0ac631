"""
On a worker: the plugin that keeps its jobs and its manager, and what Dask is told to run there.

A job leaves Dask's pool of threads at once, since it waits for a model server and computes nothing.
So a worker with one thread has several jobs in flight, and its other tasks go on.
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
from urisk_nb.scale.steps import keep_own
from urisk_nb.scale.thread_frames import mend_current_frames
from urisk_nb.settings import load

__all__ = ["PLUGIN", "ManagerPlugin", "WorkerPlace", "cancel_jobs", "describe_worker", "run_job"]

PLUGIN = "urisk_nb"
_SETUP = threading.Lock()
MAX_CANCELLED = 1000  # ids that are remembered of jobs that had not begun when they were cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """
    Where a worker runs, and which server it would ask; found without touching the server.

    Attributes
    ----------
    server
        Names the server: its address, and the host where the address is this machine's own.
    """

    host: str
    pid: int
    server: str


class ManagerPlugin(WorkerPlugin):
    """
    Keeps the jobs of one worker, and ends the manager of its process with it.

    Registered once with the scheduler, which sets it up on workers that join later, too.
    """

    name = PLUGIN
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Begin without jobs; the manager is started by the first one."""
        mend_current_frames()
        leave_interrupts_to_nanny(worker)
        self._lock = threading.Lock()
        self._calls: dict[str, event_loop.Call[Any]] = {}
        self._cancelled: deque[str] = deque(maxlen=MAX_CANCELLED)

    async def teardown(self, worker: Worker) -> None:  # noqa: ARG002  Dask's signature
        """Shut down the manager of this process: what it started ends with it."""
        self.cancel(list(self._calls))
        if (manager := LLMManager.find_instance()) is not None:
            await manager.shutdown()

    def run(self, job: str, step: Callable[..., Awaitable[Any]], args: Sequence[Any]) -> Any:
        """
        Run a step and block until it has ended.

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
        """Stop jobs, on the model server too; one that has not begun never begins."""
        with self._lock:
            self._cancelled.extend(jobs)
            calls = [self._calls[job] for job in jobs if job in self._calls]
        for call in calls:
            call.cancel()


def _build_end_error() -> WorkerLost:
    return WorkerLost(
        "the session of a worker ended during the call.", fix="run the cell once more"
    )


async def _await(step: Callable[..., Awaitable[Any]], args: Sequence[Any]) -> Any:
    return await step(*args)


def run_job(job: str, content: bytes) -> bytes:
    """
    Run a step as a Dask task.

    Parameters
    ----------
    job
        Names it, for `cancel_jobs`.
    content
        The step and its arguments, pickled: Dask would look into lists and texts for keys of its
        own.

    Returns
    -------
    bytes
        What the step gives, or the UriskError that it raises, pickled. Of an exception Dask would
        write a traceback into the cell of a notebook that has its cluster in its kernel.
    """
    worker = get_worker()
    secede()  # type: ignore[no-untyped-call]
    step, args = pickle.loads(content)  # noqa: S301  the client of this cluster sent it
    try:
        given = _get_plugin(worker).run(job, step, args)
    except UriskError as exc:
        given = exc
    return pickle.dumps(given)


def _get_plugin(worker: Worker) -> ManagerPlugin:
    """Return the plugin of a worker; one that a new scheduler does not know is made here."""
    with _SETUP:
        plugin = worker.plugins.get(PLUGIN)
        if not isinstance(plugin, ManagerPlugin):
            plugin = ManagerPlugin()
            plugin.setup(worker)
            worker.plugins[PLUGIN] = plugin
        return plugin


def cancel_jobs(jobs: Sequence[str], dask_worker: Worker) -> None:
    """Cancel jobs of a worker; runs on its loop, beside its tasks."""
    plugin = dask_worker.plugins.get(PLUGIN)
    if isinstance(plugin, ManagerPlugin):
        plugin.cancel(jobs)


def describe_worker(overrides: Mapping[str, Any], dask_worker: Worker) -> WorkerPlace:
    """
    Return where this worker runs, and which server it would ask.

    Raises
    ------
    SettingsError
        An environment variable of the worker, or a line of its `.env`, cannot be used.
    """
    manager, host = LLMManager.find_instance(), platform.node()
    own = {} if manager is None else keep_own(manager.overrides)
    settings = load(**own, **overrides)
    is_own = any(is_loopback(one.host) for one in settings.each_server)
    # Machines that were made of one image may have one name
    server = f"{settings.url} on {host} ({dask_worker.ip})" if is_own else settings.url
    return WorkerPlace(host=host, pid=os.getpid(), server=server)
