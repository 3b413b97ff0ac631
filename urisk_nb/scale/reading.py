"""
Much evidence is read by the workers of a cluster: documents travel there, the choice of sentences
travels back.

This process begins by itself. What it has done within a second is not worth the way. A batch that
comes back without a result, whatever the cause, is read here: so its error is the one that a run
without a cluster would give. So is a batch that does not come back: the workers may be busy with
other work, or gone.
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
from urisk_nb.scale.thread_frames import mend_current_frames

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["map_selections", "select_batch"]

ALONE_S = 1.0
BATCH_CHARS = 1_000_000  # two or three annual reports: a second or two of a worker
MAX_SENT_CHARS = 5_000_000  # of one ticker; what is longer is read here, as Dask wants small tasks
PATIENCE_S = 10.0  # without any result, after which what is not back is read here
SLICE_S = 0.05  # how long a wait may last before the interpreter looks for an interrupt
AHEAD = 2  # batches for each thread of a worker that are sent before the first of them is back
RETRIES = 1  # of a batch that fails on a worker; one whose worker ends is begun again besides


def map_selections(client: Client) -> SelectionMapper:
    """
    Return who reads the evidence of a run: this process, and the workers where there is much.

    The mapper raises WorkersDiffer where workers have another version of Python or of urisk_nb.
    """
    return lambda tasks: _Reading(client).map(tasks)


class _Reading:
    """The reading of one run, in the thread of its caller."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._split_once = keep_shared()
        self._overdue_s = 0.0  # when this process stops waiting

    def map(self, given: Iterable[SelectionTask]) -> Iterator[EvidenceSelection]:
        """Yield the selection of each task, in their order."""
        tasks = iter(given)
        began_s = time.monotonic()
        for task in tasks:
            yield self._read_here(task)
            if time.monotonic() - began_s > ALONE_S:
                break
        else:
            return
        yield from self._map_there(tasks, AHEAD * self._count_threads())

    def _read_here(self, task: SelectionTask) -> EvidenceSelection:
        return select_evidence(task, self._split_once)

    def _count_threads(self) -> int:
        """Return how many threads the workers have, after a look at their versions."""
        try:
            seen = self._client.get_versions(packages=["urisk_nb"])["workers"]  # type: ignore[index]
            count = sum(self._client.nthreads().values())  # type: ignore[no-untyped-call]
        # A RuntimeError: the client was closed. The questions will say what is wrong
        except (OSError, RuntimeError, concurrent.futures.CancelledError, asyncio.CancelledError):
            return 0
        if differences := find_differences(seen):
            raise build_differences_error(differences)
        return int(count)

    def _map_there(self, tasks: Iterator[SelectionTask], most: int) -> Iterator[EvidenceSelection]:
        pending: deque[tuple[Sequence[SelectionTask], Future[bytes] | None]] = deque()
        self._overdue_s = time.monotonic() + PATIENCE_S
        try:
            for batch in _list_batches(tasks):
                pending.append((batch, self._send(batch) if most else None))
                if len(pending) >= max(1, most):
                    yield from self._receive(*pending.popleft())
            while pending:
                yield from self._receive(*pending.popleft())
        finally:
            for _, future in pending:
                if future is not None:
                    future.release()  # type: ignore[no-untyped-call]  # a task that waits ends

    def _send(self, batch: Sequence[SelectionTask]) -> Future[bytes] | None:
        """Send a batch to whichever worker is free; None where it is read here."""
        if _count_chars(batch) > MAX_SENT_CHARS or self._client.status != "running":
            return None
        try:
            content = pickle.dumps([encode_task(task) for task in batch])
            sent: Future[bytes] = self._client.submit(
                select_batch, content, pure=False, retries=RETRIES
            )
        except Exception:  # noqa: BLE001  an object that cannot be packed; a client that was closed
            return None
        return sent

    def _receive(
        self, batch: Sequence[SelectionTask], sent: Future[bytes] | None
    ) -> Iterator[EvidenceSelection]:
        found: list[bytes] | None = None
        if sent is not None:
            try:
                if self._await_end(sent):
                    found = pickle.loads(sent.result())  # noqa: S301  a worker of the user's sent it
            except (Exception, asyncio.CancelledError):  # noqa: BLE001  it is read here then
                found = None
            finally:
                sent.release()  # type: ignore[no-untyped-call]
        if found is None:
            yield from map(self._read_here, batch)
        else:
            yield from map(decode_selection, found, batch)

    def _await_end(self, sent: Future[bytes]) -> bool:
        """Return whether a batch ends before the time that is waited for one; it begins anew."""
        while not sent.done():  # type: ignore[no-untyped-call]
            if time.monotonic() > self._overdue_s:
                return False
            time.sleep(SLICE_S)
        self._overdue_s = time.monotonic() + PATIENCE_S
        return True


def _list_batches(tasks: Iterable[SelectionTask]) -> Iterator[Sequence[SelectionTask]]:
    """Yield tasks in batches that are worth the way."""
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
    """Read the evidence of a batch of tickers: what Dask calls on a worker."""
    mend_current_frames()
    return pickle.dumps([select_bytes(one) for one in pickle.loads(content)])  # noqa: S301  likewise
