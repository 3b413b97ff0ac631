"""
Jobs on the workers of a cluster, seen from the loop of urisk_nb: started, waited for, cancelled.

Dask's client has a loop and a thread of its own; each call of it is made there. Which workers there
are is looked at several times a second: a job whose worker has ended fails at once, instead of
waiting for a worker of that address. Dask is told no retries, since its tasks are bound to one
worker; what failed is submitted anew by whoever waits for it.
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

WATCH_S = 0.2  # between two looks at the workers
LOST_S = 30.0  # without an answer of the scheduler, which is then taken for gone
WORKERS_WAIT_S = 30.0  # for the first worker; an adaptive cluster starts it for a task
CLOSED = "its client is closed"
CANCEL_S = 0.5  # at most, until the workers were told at the end of a run

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    """A job under way; `lost` has the reason where it will never end."""

    worker: str
    lost: asyncio.Future[UriskError]


class Jobs:
    """
    The jobs of one run; used on one loop.

    Parameters
    ----------
    client
        The way to the cluster.
    on_gone, on_joined
        Called with the addresses of workers that ended or came, before the jobs of these fail.
    """

    def __init__(
        self,
        client: Client,
        on_gone: Callable[[Collection[str]], object],
        on_joined: Callable[[Collection[str]], object],
    ) -> None:
        self._client, self._on_gone, self._on_joined = client, on_gone, on_joined
        # A loop of tornado, which is one of asyncio within
        self._loop: asyncio.AbstractEventLoop = cast("Any", client.loop).asyncio_loop
        self.workers: frozenset[str] = frozenset()
        self._jobs: dict[str, _Job] = {}
        self._cancelled: dict[str, list[str]] = {}  # what each worker is about to be told
        self._orphans: dict[str, str] = {}  # jobs that go on though nobody hears of them, by worker
        self._messages: set[asyncio.Future[Any]] = set()  # to workers, about what is cancelled
        self._watch: asyncio.Task[None] | None = None
        self._seen_s = time.monotonic()

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return describe_client(self._client)

    @property
    def is_connected(self) -> bool:
        """Whether the client has its scheduler."""
        return self._client.status == "running"

    async def open(self) -> None:
        """
        Wait for a worker, and watch the workers from now on.

        Raises
        ------
        ClusterLost
            There is none.
        """
        self.workers = frozenset(await self._list_workers())
        if not self.workers:
            await self._await_worker()
        self._watch = asyncio.get_running_loop().create_task(self._watch_workers())

    async def close(self) -> None:
        """End the watch; what was cancelled is told to the workers, within a bounded time."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        self._tell_workers()
        if self._messages:
            await asyncio.wait(self._messages, timeout=CANCEL_S)

    # Calls of the client --------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Run a coroutine on the client's loop; a cancel reaches it there."""
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
        """Return what a method of the client gives; on its own loop it gives an awaitable."""

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
            fix="connect again: client = Client(ADDRESS), then run the cell once more; what was "
            "answered is not asked again",
        )

    async def _list_workers(self) -> Collection[str]:
        found: Mapping[str, int] = await self._call(self._client.nthreads)
        return found.keys()

    async def _await_worker(self) -> None:
        """Wait for the first worker; a task makes an adaptive cluster start one."""
        client = self._client

        async def need_one() -> None:
            task = client.submit(_do_nothing, pure=False)
            try:
                await asyncio.wait_for(_await_result(task), WORKERS_WAIT_S)
            finally:
                task.release()  # type: ignore[no-untyped-call]

        with contextlib.suppress(TimeoutError):
            await self._start(need_one())
        self.workers = frozenset(await self._list_workers())
        if not self.workers:
            raise ClusterLost(
                f"the cluster at {self.address} has no worker; none came in "
                f"{WORKERS_WAIT_S:.0f} s.",
                fix="start workers: cluster.scale(2), or `dask worker ADDRESS` on each host",
            )

    async def _call_all(self, make: Callable[[], Any]) -> Any:
        """
        Return what a method of the client gives that asks workers. It is called anew where one of
        them ends meanwhile: the scheduler would try for half a minute to reach that one.
        """
        while True:
            asked, call = self.workers, asyncio.ensure_future(self._call(make))
            try:
                while not call.done() and asked <= self.workers:
                    await asyncio.wait({call}, timeout=WATCH_S)
                if call.done():
                    return call.result()
            except ClusterLost:
                await asyncio.sleep(2 * WATCH_S)  # a worker that ended is not reached, then is seen
                if asked <= self.workers:
                    raise
            finally:
                call.cancel()

    async def list_versions(self) -> Mapping[str, Mapping[str, Any] | None]:
        """Return the versions of Python and of packages of each worker."""
        found = await self._call_all(lambda: self._client.get_versions(packages=["urisk_nb"]))
        workers: Mapping[str, Mapping[str, Any] | None] = found["workers"]
        return workers

    async def install(self) -> None:
        """Have all workers, also those that join later, keep a manager; done once a scheduler."""
        await self._call_all(lambda: self._client.register_plugin(ManagerPlugin()))

    async def ask_workers(
        self, function: Callable[..., T], *args: Any, workers: Collection[str]
    ) -> Mapping[str, T | Exception]:
        """
        Return what a quick function gives on each worker that is there, or raises there; an OSError
        where the worker is not reached.
        """

        def ask() -> Any:
            there = [one for one in workers if one in self.workers]
            return self._client.run(function, *args, workers=there, on_error="return")

        found: Mapping[str, T | Exception] = await self._call_all(ask)
        return found

    # Jobs -----------------------------------------------------------------------------------------

    async def run(self, worker: str, step: Callable[..., Awaitable[T]], *args: Any) -> T:
        """
        Return what a step gives on a worker. A cancel stops it there.

        Raises
        ------
        WorkerLost
            The worker ended meanwhile.
        ClusterLost
            The connection to the scheduler broke; how the job ended is not known.
        UriskError
            As the step raises.
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
                raise copy.copy(job.lost.result())  # another job may have the same reason
            given: T = pickle.loads(sent.result())  # noqa: S301  a worker of the user's sent it
        except asyncio.CancelledError:
            self._cancel_on_worker(number, worker)
            raise
        except ClusterLost:
            self._orphans[number] = worker
            raise
        finally:
            del self._jobs[number]
            if not sent.cancel() and not sent.cancelled():
                sent.exception()  # looked at: else a cancelled run would log it
        return given

    async def _follow(
        self, number: str, worker: str, step: Callable[..., object], content: bytes
    ) -> bytes:
        """Have Dask run a job, on the client's loop; its release cancels a task that waits."""
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
            if (error := self._explain(future, worker, exc)) is None:
                raise
            raise error from exc
        finally:
            future.release()  # type: ignore[no-untyped-call]

    def _explain(self, future: Future[Any], worker: str, seen: BaseException) -> UriskError | None:
        """Return what became of the cluster where that is why a task has no result."""
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
        """Tell a worker to stop a job, in one message with all that is cancelled now."""
        if not self._cancelled:
            asyncio.get_running_loop().call_soon(self._tell_workers)
        self._cancelled.setdefault(worker, []).append(number)

    def _tell_workers(self) -> None:
        async def tell(worker: str, jobs: list[str]) -> None:
            # On the client's own loop it gives an awaitable
            run = self._client.run(cancel_jobs, jobs, workers=[worker], on_error="ignore")
            await cast("Awaitable[object]", run)

        while self._cancelled:
            worker, jobs = self._cancelled.popitem()
            with contextlib.suppress(ClusterLost):
                message = self._start(tell(worker, jobs))
                self._messages.add(message)
                message.add_done_callback(self._forget_message)

    def _forget_message(self, message: asyncio.Future[Any]) -> None:
        self._messages.discard(message)
        if not message.cancelled():
            message.exception()  # the worker may have ended: then it asks nothing any more

    # Workers --------------------------------------------------------------------------------------

    async def _watch_workers(self) -> None:
        """Look at the workers again and again; jobs that cannot end any more fail."""
        while True:
            await asyncio.sleep(WATCH_S)
            seen = self._build_lost_error(f"its client is {self._client.status}")
            try:
                now = frozenset(await self._list_workers()) if self.is_connected else None
            except ClusterLost as exc:
                now, seen = None, exc
            except Exception as exc:  # noqa: BLE001  the watch has to go on: jobs would never end
                now, seen = None, self._build_lost_error(f"{type(exc).__name__}: {exc}")
            if now is not None:
                self._seen_s = time.monotonic()
                self._note_workers(now)
            elif self._client.status == "closed" or time.monotonic() - self._seen_s > LOST_S:
                self._fail(self._jobs, seen)

    def _note_workers(self, now: frozenset[str]) -> None:
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
        f"the worker {worker} ended while it asked.",
        fix="look at its log, and at the memory of its host; then run the cell once more",
    )


async def _await_result(future: Future[T]) -> T:
    """Return the result of a task; on the client's own loop `result` gives an awaitable."""
    return await cast("Awaitable[T]", future.result())


def _do_nothing() -> None:
    """Give an adaptive cluster a reason to start a worker."""
