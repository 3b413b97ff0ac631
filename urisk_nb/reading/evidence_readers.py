"""
The readers of one run: files and sentences, in this process or, if there is much, in workers.

This process starts alone, and so measures its speed. It starts workers if the rest would take some
seconds more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from weakref import WeakSet

from urisk_nb import process_state
from urisk_nb.errors import UriskError
from urisk_nb.readers.file_content import FileContent
from urisk_nb.reading.file_cache import remember_files
from urisk_nb.reading.jobs import READ_FILE, SELECT
from urisk_nb.reading.packed_cache import find_cache
from urisk_nb.reading.selection_cache import remember
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.selection import (
    EvidenceSelection,
    SelectionMapper,
    SelectionTask,
    keep_shared,
    select_evidence,
)
from urisk_nb.workers.cores import count_workers, read_given_count
from urisk_nb.workers.pool import Job, WorkerPool

__all__ = ["EvidenceReaders", "OnFile"]

Task = TypeVar("Task")
Result = TypeVar("Result")
OnFile = Callable[[str, int, int], object]
"""Called with the name of a file, its number from 1, and the number of files."""

LOCAL_S = 1.0  # how long this process reads alone: workers take as long to start
MIN_LEFT_S = 3.0  # estimated rest, in time of this process, for which workers are started
POOLS = "evidence-workers"  # of this process; at most one of them is open


class EvidenceReaders:
    """
    Reads the evidence of one run; `close` ends the workers, if there are any.

    Results are cached in this process. Of several simultaneous runs in a process only one has
    workers, because they would share the same cores.

    Parameters
    ----------
    on_file
        Called before a file of a folder is read.

    Raises
    ------
    SettingsError
        URISK_WORKERS is not a number from 1 to 256.
    """

    def __init__(self, on_file: OnFile | None = None) -> None:
        self._on_file = on_file
        self._given = read_given_count()
        self._size: int | None = None  # of the pool; None until one is wanted
        self._pool: WorkerPool | None = None

    def __enter__(self) -> EvidenceReaders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers."""
        if self._pool is not None:
            self._pool.close()

    def map_files(self, paths: Sequence[Path]) -> Iterator[FileContent | UriskError]:
        """Yield the content of each file in the given order, or why it cannot be read."""
        return remember_files(self._map_files, find_cache())(paths)

    def _map_files(self, paths: Sequence[Path]) -> Iterator[FileContent | UriskError]:
        total = sum(map(_find_size, paths))
        return self._map(READ_FILE, self._announce(paths), _find_size, total)

    def map_selections(self, documents: Iterable[Document]) -> SelectionMapper:
        """
        Return a mapper that selects the evidence.

        Parameters
        ----------
        documents
            All documents of the tasks; their length predicts the time.
        """
        total = _count_chars(documents)
        split_once = keep_shared()
        job = replace(SELECT, run_locally=lambda task: select_evidence(task, split_once))

        def map_new(tasks: Iterable[SelectionTask]) -> Iterator[EvidenceSelection]:
            return self._map(job, tasks, _count_task_chars, total)

        return remember(map_new, find_cache())

    def _announce(self, paths: Sequence[Path]) -> Iterator[Path]:
        for number, path in enumerate(paths, 1):
            if self._on_file is not None:
                self._on_file(path.name, number, len(paths))
            yield path

    def _map(
        self,
        job: Job[Task, Result],
        given: Iterable[Task],
        measure: Callable[[Task], int],
        total: int,
    ) -> Iterator[Result]:
        """
        Run tasks in this process until the rest would take long and workers are ready; then run
        them in workers.
        """
        tasks = iter(given)
        began_s, done = time.monotonic(), 0
        pool: WorkerPool | None = None
        is_warm = _never
        for task in tasks:
            yield job.run_locally(task)
            done += measure(task)
            seconds = time.monotonic() - began_s
            is_long = seconds > LOCAL_S and seconds * (total - done) > MIN_LEFT_S * done
            if is_long and pool is None and (pool := self._open_pool()) is not None:
                is_warm = pool.warm(job)
            if pool is not None and is_warm():
                break
        if pool is not None:
            yield from pool.map(job, tasks)

    def _open_pool(self) -> WorkerPool | None:
        if self._size is None:
            self._size = self._given or count_workers()
        if self._pool is None and self._size > 1:
            with process_state.lock():
                pools: WeakSet[WorkerPool] = process_state.setdefault(POOLS, WeakSet)
                if all(one.is_closed for one in pools):
                    # Closed by `close` from here on, wherever an interrupt falls
                    self._pool = WorkerPool(self._size)
                    pools.add(self._pool)
        return self._pool


def _never() -> bool:
    return False


def _find_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _count_chars(documents: Iterable[Document]) -> int:
    """Return the length of documents; shared ones are split once and do not count."""
    return sum(one.length for one in documents if one.ticker is not None)


def _count_task_chars(task: SelectionTask) -> int:
    return _count_chars((*task.documents, *(task.previous or ())))
