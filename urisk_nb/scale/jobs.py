"""
Start, await and cancel jobs on the workers of a cluster, from the event loop of urisk_nb.

Dask's client has its own event loop and thread, where all its methods are called. The list of
workers is polled several times a second, so that a job whose worker ended fails at once, instead of
waiting for a worker at that address. Dask does not retry jobs, since each is bound to one worker;
the caller submits a failed one again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import pickle
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from urisk_nb.errors import ClusterLost, UriskError, WorkerLost
from urisk_nb.scale.checks import describe_client
from urisk_nb.scale.worker import ManagerPlugin, cancel_jobs, run_job

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Jobs"]

POLL_S = 0.2  # between two polls of the workers
LOST_S = 30.0  # the scheduler counts as lost after so long without an answer
WORKERS_WAIT_S = 30.0  # for the first worker; an adaptive cluster starts one for a task
CLOSED = "its client is closed"
CANCEL_S = 0.5  # longest wait for cancel messages at the end of a run

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    """A running job; `lost` gets an error if the job can never end."""

    worker: str
    lost: asyncio.Future[UriskError]


class Jobs:
    """
    The jobs of one run; used on one loop.

    Parameters
    ----------
    client
        The Dask client of the cluster.
    on_gone, on_joined
        Called with the addresses of workers that ended or joined, before their jobs fail.
    """

    def __init__(
        self,
        client: Client,
        on_gone: Callable[[Collection[str]], object],
        on_joined: Callable[[Collection[str]], object],
    ) -> None:
        self._client, self._on_gone, self._on_joined = client, on_gone, on_joined
        # Tornado's loop wraps one of asyncio
        self._loop: asyncio.AbstractEventLoop = cast("Any", client.loop).asyncio_loop
        self.workers: frozenset[str] = frozenset()
        self._jobs: dict[str, _Job] = {}
        self._cancelled: dict[str, list[str]] = {}  # jobs to cancel, by worker; not sent yet
        self._orphans: dict[str, str] = {}  # worker of each job that runs on without a connection
        self._messages: set[asyncio.Future[Any]] = set()  # cancel messages on their way
        self._poll: asyncio.Task[None] | None = None
        self._seen_s = time.monotonic()

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return describe_client(self._client)

    @property
    def is_connected(self) -> bool:
        """Whether the client is connected to its scheduler."""
        return self._client.status == "running"

    async def open(self) -> None:
        """
        Wait for a worker, and start polling the workers.

        Raises
        ------
        ClusterLost
            There is no worker.
        """
        self.workers = frozenset(await self._list_workers())
        if not self.workers:
            await self._await_worker()
        self._poll = asyncio.get_running_loop().create_task(self._poll_workers())

    async def close(self) -> None:
        """Stop polling, and send the last cancel messages within a bounded time."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait({self._poll})
        self._send_cancels()
        if self._messages:
            await asyncio.wait(self._messages, timeout=CANCEL_S)

    # Calls to the client --------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Run a coroutine on the client's loop; cancelling the future cancels it there."""
        if self._client.status == "closed":
            work.close()
            raise self._build_lost_error(CLOSED)
        try:
            begun = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as exc:  # the loop was closed just now
            work.close()
            raise self._build_lost_error(CLOSED) from exc
        return asyncio.wrap_future(begun)

    async def _call(self, make: Callable[[], Any]) -> Any:
        """Call a method of the client and await its result; on its own loop it is awaitable."""

        async def on_client() -> Any:
            return await make()

        try:
            return await asyncio.wait_for(self._start(on_client()), LOST_S)
        except (OSError, TimeoutError) as exc:
            if isinstance(exc, UriskError):
                raise
            raise self._build_lost_error(f"{type(exc).__name__}: {exc}") from exc

    def _build_lost_error(self, seen: str) -> ClusterLost:
        return ClusterLost(
            f"the scheduler at {self.address} is lost: {seen.rstrip('.')}.",
            fix="connect again: client = Client(ADDRESS), then run the cell again; answered "
            "questions are not asked again",
        )

    async def _list_workers(self) -> Collection[str]:
        found: Mapping[str, int] = await self._call(self._client.nthreads)
        return found.keys()

    async def _await_worker(self) -> None:
        """Wait for the first worker, and submit a task so that an adaptive cluster starts one."""
        client = self._client

        async def require_worker() -> None:
            task = client.submit(_do_nothing, pure=False)
            try:
                await asyncio.wait_for(_await_result(task), WORKERS_WAIT_S)
            finally:
                task.release()  # type: ignore[no-untyped-call]

        with contextlib.suppress(TimeoutError):
            await self._start(require_worker())
        self.workers = frozenset(await self._list_workers())
        if not self.workers:
            raise ClusterLost(
                f"the cluster at {self.address} has no worker; none joined within "
                f"{WORKERS_WAIT_S:.0f} s.",
                fix="start workers: cluster.scale(2), or `dask worker ADDRESS` on each host",
            )

    async def _call_all(self, make: Callable[[], Any]) -> Any:
        """
        Return what a method of the client gives that asks all workers.

        It is called again if one of them ends meanwhile: the scheduler would try to reach that one
        for half a minute.
        """
        while True:
            asked, call = self.workers, asyncio.ensure_future(self._call(make))
            try:
                while not call.done() and asked <= self.workers:
                    await asyncio.wait({call}, timeout=POLL_S)
                if call.done():
                    return call.result()
            except ClusterLost:
                await asyncio.sleep(2 * POLL_S)  # a lost worker fails first and is noticed later
                if asked <= self.workers:
                    raise
            finally:
                call.cancel()

    async def list_versions(self) -> Mapping[str, Mapping[str, Any] | None]:
        """Return the versions of Python and urisk_nb of each worker."""
        found = await self._call_all(lambda: self._client.get_versions(packages=["urisk_nb"]))
        workers: Mapping[str, Mapping[str, Any] | None] = found["workers"]
        return workers

    async def install(self) -> None:
        """Register the plugin that manages jobs, also for workers that join later."""
        await self._call_all(lambda: self._client.register_plugin(ManagerPlugin()))

    async def ask_workers(
        self, function: Callable[..., T], *args: Any, workers: Collection[str]
    ) -> Mapping[str, T | Exception]:
        """
        Run a quick function on each worker, and return its result or exception.

        The exception is an OSError if the worker cannot be reached.
        """

        def ask() -> Any:
            present = [one for one in workers if one in self.workers]
            return self._client.run(function, *args, workers=present, on_error="return")

        found: Mapping[str, T | Exception] = await self._call_all(ask)
        return found

    # Jobs -----------------------------------------------------------------------------------------

    async def run(self, worker: str, step: Callable[..., Awaitable[T]], *args: Any) -> T:
        """
        Run a step on a worker and return its result. Cancelling stops it there.

        Raises
        ------
        WorkerLost
            The worker ended meanwhile.
        ClusterLost
            The connection to the scheduler broke; the outcome is unknown.
        UriskError
            The step raised it.
        """
        if worker not in self.workers:
            raise _build_worker_error(worker)
        loop = asyncio.get_running_loop()
        number = secrets.token_hex(8)
        content = pickle.dumps((step, args))
        sent: asyncio.Future[bytes] = self._start(self._follow(number, worker, step, content))
        job = self._jobs[number] = _Job(worker, loop.create_future())
        try:
            ends: set[asyncio.Future[Any]] = {sent, job.lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not sent.done():
                raise copy.copy(job.lost.result())  # other jobs may share this error
            result: T | UriskError = pickle.loads(sent.result())  # noqa: S301  the user's worker
            if isinstance(result, UriskError):
                raise result
        except asyncio.CancelledError:
            self._cancel_on_worker(number, worker)
            raise
        except ClusterLost:
            self._orphans[number] = worker
            raise
        finally:
            del self._jobs[number]
            if not sent.cancel() and not sent.cancelled():
                sent.exception()  # retrieved, so that asyncio does not log it
        return result

    async def _follow(
        self, number: str, worker: str, step: Callable[..., object], content: bytes
    ) -> bytes:
        """Submit a job and await it, on the client's loop; releasing it cancels a queued task."""
        future: Future[bytes] = self._client.submit(
            run_job,
            number,
            content,
            key=f"urisk-{step.__name__}-{number}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
        )
        try:
            return await _await_result(future)
        except (Exception, asyncio.CancelledError, concurrent.futures.CancelledError) as exc:
            if (error := self._translate_error(future, worker, exc)) is None:
                raise
            raise error from exc
        finally:
            future.release()  # type: ignore[no-untyped-call]

    def _translate_error(
        self, future: Future[Any], worker: str, seen: BaseException
    ) -> UriskError | None:
        """Return the error if the cluster is why a task failed; None: the task itself failed."""
        from distributed import KilledWorker

        if isinstance(seen, KilledWorker):
            return _build_worker_error(worker)
        if future.status in ("cancelled", "lost"):
            is_open = self._client.status in ("running", "connecting")
            return self._build_lost_error("the connection broke" if is_open else CLOSED)
        if future.status != "error" and isinstance(seen, OSError):
            return self._build_lost_error(f"{type(seen).__name__}: {seen}")
        return None

    def _cancel_on_worker(self, number: str, worker: str) -> None:
        """Cancel a job on its worker; jobs cancelled together share one message."""
        if not self._cancelled:
            asyncio.get_running_loop().call_soon(self._send_cancels)
        self._cancelled.setdefault(worker, []).append(number)

    def _send_cancels(self) -> None:
        async def send(worker: str, jobs: list[str]) -> None:
            # Awaitable, on the client's own loop
            run = self._client.run(cancel_jobs, jobs, workers=[worker], on_error="ignore")
            await cast("Awaitable[object]", run)

        while self._cancelled:
            worker, jobs = self._cancelled.popitem()
            with contextlib.suppress(ClusterLost):
                message = self._start(send(worker, jobs))
                self._messages.add(message)
                message.add_done_callback(self._forget_message)

    def _forget_message(self, message: asyncio.Future[Any]) -> None:
        self._messages.discard(message)
        if not message.cancelled():
            message.exception()  # the worker may have ended, and its jobs with it

    # Workers --------------------------------------------------------------------------------------

    async def _poll_workers(self) -> None:
        """Poll the workers, and fail the jobs that can never end."""
        while True:
            await asyncio.sleep(POLL_S)
            seen = self._build_lost_error(f"its client is {self._client.status}")
            try:
                now = frozenset(await self._list_workers()) if self.is_connected else None
            except ClusterLost as exc:
                now, seen = None, exc
            except Exception as exc:  # noqa: BLE001  without polling, lost jobs would never end
                now, seen = None, self._build_lost_error(f"{type(exc).__name__}: {exc}")
            if now is not None:
                self._seen_s = time.monotonic()
                self._update_workers(now)
            elif self._client.status == "closed" or time.monotonic() - self._seen_s > LOST_S:
                self._fail(self._jobs, seen)

    def _update_workers(self, now: frozenset[str]) -> None:
        gone, joined = self.workers - now, now - self.workers
        self.workers = now
        while self._orphans:
            self._cancel_on_worker(*self._orphans.popitem())
        if gone:
            self._on_gone(gone)
            for worker in gone:
                jobs = [number for number, job in self._jobs.items() if job.worker == worker]
                self._fail(jobs, _build_worker_error(worker))
        if joined:
            self._on_joined(joined)

    def _fail(self, numbers: Collection[str], error: UriskError) -> None:
        for number in tuple(numbers):
            lost = self._jobs[number].lost
            if not lost.done():
                lost.set_result(error)


def _build_worker_error(worker: str) -> WorkerLost:
    return WorkerLost(
        f"the worker {worker} ended during a call.",
        fix="check its log and the memory of its host, then run the cell again",
    )


async def _await_result(future: Future[T]) -> T:
    """Return the result of a task; on the client's own loop `result()` is awaitable."""
    return await cast("Awaitable[T]", future.result())


def _do_nothing() -> None:
    """Do nothing: an adaptive cluster starts a worker for this task."""
