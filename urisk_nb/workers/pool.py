"""
A pool of worker processes for one run, and what becomes of a task whose worker dies.

Not `multiprocessing`: with `spawn` it runs the user's script again, and with `fork` it copies a
process that has threads. Neither that nor loky ends its workers when the caller is killed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Generic, TypeVar, cast

from urisk_nb.workers import worker

__all__ = ["Job", "WorkerPool"]

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 2  # workers that a task is given to, before this process does it
MAX_DEATHS = 4  # of workers, one after the other: then none is started any more
AHEAD = 2  # tasks for each worker that are taken before the first of them is returned
SLICE_S = 0.05  # how long a wait may last before the interpreter looks for an interrupt
END_S = 1.0  # how long a killed process may take to be gone
# Worker processes are the cores' share: more threads in each would be in each other's way
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_WINDOWS_FLAGS = ("CREATE_NO_WINDOW", "CREATE_NEW_PROCESS_GROUP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Task, Result]):
    """
    One kind of task, and how it travels.

    Attributes
    ----------
    function
        What a worker calls, bytes to bytes: ``"urisk_nb.risk.task_bytes:select_bytes"``.
    encode
        Returns a task as bytes.
    decode
        Returns a result from the bytes of the worker and the task.
    here
        Does a task in this process: where workers fail, so that its error is the task's own.
    """

    function: str
    encode: Callable[[Task], bytes]
    decode: Callable[[bytes, Task], Result]
    here: Callable[[Task], Result]


class WorkerPool:
    """
    So many processes, started when the first task comes and ended by `close`.

    A task is held by at most one worker, and few are taken ahead: memory does not grow with the
    number of tasks. A task whose worker dies is given to another one, and at last done here.

    Attributes
    ----------
    is_closed
        Whether `close` was called.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="urisk-worker")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._deaths = 0  # since a worker last did what it was asked
        self.is_closed = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def warm(self, job: Job[Task, Result]) -> Callable[[], bool]:
        """
        Start all workers, and return what tells whether one is there: Python has started and
        imported what the job needs.
        """
        futures = [self._submit(self._call, job.function, None) for _ in range(self.size)]
        return lambda: any(one.done() for one in futures)

    def map(self, job: Job[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the result of each task, in the order of the tasks; raises what a task raises."""
        pending: deque[tuple[Task, Future[bytes | None]]] = deque()
        try:
            for task in tasks:
                pending.append((task, self._submit(self._send, job, task)))
                if len(pending) >= AHEAD * self.size:
                    yield _finish(job, *pending.popleft())
            while pending:
                yield _finish(job, *pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()

    def close(self) -> None:
        """End the workers, whatever they do, and wait until they are gone."""
        try:
            self.is_closed = True
            self._kill_all()
        finally:
            self._kill_all()  # an interrupt in the middle of it leaves none of them
            self._threads.shutdown(wait=True, cancel_futures=True)

    def _kill_all(self) -> None:
        with self._lock:
            workers = [*self._workers]
        for one in workers:
            one.kill()

    def _submit(
        self, function: Callable[..., bytes | None], *given: object
    ) -> Future[bytes | None]:
        try:
            return self._threads.submit(function, *given)
        except RuntimeError:  # no more threads: this process does it
            nothing: Future[bytes | None] = Future()
            nothing.set_result(None)
            return nothing

    # In the threads of the pool -------------------------------------------------------------------

    def _send(self, job: Job[Task, Result], task: Task) -> bytes | None:
        """Return what a worker replies; None where this process must do the task."""
        try:
            data = job.encode(task)
        except Exception:  # noqa: BLE001  an object of the user's that cannot be packed
            return None
        return self._call(job.function, data)

    def _call(self, function: str, data: bytes | None) -> bytes | None:
        for _ in range(ATTEMPTS):
            one = self._take()
            if one is None:
                return None
            try:
                mark, reply = one.call(function, data)
            except (OSError, EOFError, ValueError):  # it died, or was killed by `close`
                self._drop(one)
                continue
            self._deaths = 0
            self._idle.append(one)
            return reply if mark == worker.DONE else None
        return None

    def _take(self) -> _Worker | None:
        """Return a worker that is free, or a new one; None where there can be none."""
        with self._lock:
            if self.is_closed:
                return None
            if self._idle:
                return self._idle.pop()
            if self._deaths >= MAX_DEATHS:  # there is no memory for them, say
                return None
            try:
                one = _Worker()
            except (OSError, ValueError):  # no more processes or memory; no Python to start
                return None
            self._workers.add(one)
            return one

    def _drop(self, one: _Worker) -> None:
        one.kill()
        with self._lock:
            self._deaths += 1
            self._workers.discard(one)


class _Worker:
    """One process, and the pipes to it."""

    def __init__(self) -> None:
        flags = sum(getattr(subprocess, name, 0) for name in _WINDOWS_FLAGS)
        self._process = subprocess.Popen(  # noqa: S603  this Python
            [_find_python(), "-I", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**ENVIRONMENT, **os.environ},
            start_new_session=True,  # an interrupt of a cell goes to the kernel's whole group
            creationflags=flags,
        )
        # They are pipes, as was asked for
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._is_greeted = False

    def call(self, function: str, data: bytes | None) -> tuple[bytes, bytes]:
        """
        Return the mark and the reply; without data, as soon as the function is imported.

        Raises
        ------
        OSError, EOFError
            The process is gone.
        """
        if not self._is_greeted:  # not where it was started: it may be gone by now
            worker.write_frame(self._requests, pickle.dumps(list(sys.path)))
            worker.skip_greeting(self._replies)
            self._is_greeted = True
        worker.write_frame(self._requests, pickle.dumps((function, data)))
        reply = worker.read_frame(self._replies)
        return reply[:1], reply[1:]

    def kill(self) -> None:
        """End the process at once; nothing that it does has to be finished."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        for stream in (self._requests, self._replies):
            with contextlib.suppress(OSError, ValueError):
                stream.close()


def _find_python() -> str:
    """Return the program to start; nothing where Python is part of another program."""
    is_own = not getattr(sys, "frozen", False)  # such a program would be started once more
    return (sys.executable or "") if is_own else ""


def _finish(job: Job[Task, Result], task: Task, future: Future[bytes | None]) -> Result:
    """Wait for a result, so that an interrupt is seen; do the task here where there is none."""
    while True:
        try:
            reply = future.result(timeout=SLICE_S)
        except FutureTimeout:
            continue
        return job.here(task) if reply is None else job.decode(reply, task)
