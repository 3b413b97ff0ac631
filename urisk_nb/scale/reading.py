"""
Read much evidence on the workers of a cluster: send documents, receive the chosen sentences.

This process reads alone for one second, since a small job is not worth sending. If a batch fails on
the workers for any reason, this process reads it, so its error is that of a local run. It also
reads what the workers do not return in time: they may be busy with other tasks, or gone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from urisk_nb.risk.selection import (
    EvidenceSelection,
    SelectionMapper,
    SelectionTask,
    keep_shared,
    select_evidence,
)
from urisk_nb.risk.task_bytes import decode_selection, encode_task, select_bytes
from urisk_nb.scale.checks import build_differences_error, find_differences
from urisk_nb.scale.worker import ManagerPlugin

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["map_selections", "select_batch"]

LOCAL_S = 1.0  # how long this process reads alone
BATCH_CHARS = 1_000_000  # two or three annual reports: one or two seconds of a worker
MAX_SENT_CHARS = 5_000_000  # per batch; a longer one is read locally, as Dask wants small tasks
MAX_WAIT_S = 10.0  # without any result; then the rest is read locally
SLICE_S = 0.05  # how long a wait may last before the interpreter looks for an interrupt
LOOKAHEAD = 2  # batches in flight per worker thread
RETRIES = 1  # of a batch that fails on a worker; Dask also restarts one whose worker ends


def map_selections(client: Client) -> SelectionMapper:
    """
    Return a mapper that reads evidence in this process, and on the workers if there is much.

    The mapper raises WorkersDiffer if workers have another version of Python or urisk_nb.
    """
    return lambda tasks: _ClusterReader(client).map(tasks)


class _ClusterReader:
    """Reads the evidence of one run, in the thread of its caller."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._split_once = keep_shared()
        self._overdue_s = 0.0  # when this process stops waiting

    def map(self, given: Iterable[SelectionTask]) -> Iterator[EvidenceSelection]:
        """Yield the selection of each task, in their order."""
        tasks = iter(given)
        began_s = time.monotonic()
        for task in tasks:
            yield self._read_locally(task)
            if time.monotonic() - began_s > LOCAL_S:
                break
        else:
            return
        yield from self._map_on_workers(tasks, LOOKAHEAD * self._count_threads())

    def _read_locally(self, task: SelectionTask) -> EvidenceSelection:
        return select_evidence(task, self._split_once)

    def _count_threads(self) -> int:
        """Check the versions of the workers, set them up, and return how many threads they have."""
        try:
            seen = self._client.get_versions(packages=["urisk_nb"])["workers"]  # type: ignore[index]
            if differences := find_differences(seen):
                raise build_differences_error(differences)
            self._client.register_plugin(ManagerPlugin())
            return sum(self._client.nthreads().values())  # type: ignore[no-untyped-call]
        # RuntimeError: the client was closed. The first question reports what is wrong
        except (OSError, RuntimeError, concurrent.futures.CancelledError, asyncio.CancelledError):
            return 0

    def _map_on_workers(
        self, tasks: Iterator[SelectionTask], max_pending: int
    ) -> Iterator[EvidenceSelection]:
        """Yield selections in order; with `max_pending` 0 all of them are made locally."""
        pending: deque[tuple[Sequence[SelectionTask], Future[bytes] | None]] = deque()
        self._overdue_s = time.monotonic() + MAX_WAIT_S
        try:
            for batch in _split_into_batches(tasks):
                pending.append((batch, self._send(batch) if max_pending else None))
                if len(pending) >= max(1, max_pending):
                    yield from self._receive(*pending.popleft())
            while pending:
                yield from self._receive(*pending.popleft())
        finally:
            for _, future in pending:
                if future is not None:
                    future.release()  # type: ignore[no-untyped-call]  # cancels a queued task

    def _send(self, batch: Sequence[SelectionTask]) -> Future[bytes] | None:
        """Send a batch to any free worker; None: it has to be read locally."""
        if _count_chars(batch) > MAX_SENT_CHARS or self._client.status != "running":
            return None
        try:
            content = pickle.dumps([encode_task(task) for task in batch])
            sent: Future[bytes] = self._client.submit(
                select_batch, content, pure=False, retries=RETRIES
            )
        except Exception:  # noqa: BLE001  a user object that cannot be pickled; a closed client
            return None
        return sent

    def _receive(
        self, batch: Sequence[SelectionTask], sent: Future[bytes] | None
    ) -> Iterator[EvidenceSelection]:
        found: list[bytes] | None = None
        if sent is not None:
            try:
                if self._await_end(sent):
                    found = pickle.loads(sent.result())  # noqa: S301  sent by the user's worker
            except (Exception, asyncio.CancelledError):  # noqa: BLE001  it is read locally then
                found = None
            finally:
                sent.release()  # type: ignore[no-untyped-call]
        if found is None:
            yield from map(self._read_locally, batch)
        else:
            yield from map(decode_selection, found, batch)

    def _await_end(self, sent: Future[bytes]) -> bool:
        """Return whether a batch ends in time; each batch that does starts the time anew."""
        while not sent.done():  # type: ignore[no-untyped-call]
            if time.monotonic() > self._overdue_s:
                return False
            time.sleep(SLICE_S)
        self._overdue_s = time.monotonic() + MAX_WAIT_S
        return True


def _split_into_batches(tasks: Iterable[SelectionTask]) -> Iterator[Sequence[SelectionTask]]:
    """Yield tasks in batches that are large enough to be worth sending."""
    batch: list[SelectionTask] = []
    chars = 0
    for task in tasks:
        batch.append(task)
        chars += _count_chars([task])
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _count_chars(tasks: Iterable[SelectionTask]) -> int:
    return sum(
        document.length for task in tasks for document in (*task.documents, *(task.previous or ()))
    )


def select_batch(content: bytes) -> bytes:
    """Read the evidence of a batch of tickers; runs as a Dask task."""
    return pickle.dumps([select_bytes(one) for one in pickle.loads(content)])  # noqa: S301  by client
