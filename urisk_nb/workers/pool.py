"""
A pool of worker processes for one run, which retries a task whose worker dies.

Not `multiprocessing`: with `spawn` it runs the user's script again, and with `fork` it copies a
process that has threads. Neither it nor loky ends its workers when the caller is killed.
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

ATTEMPTS = 2  # workers that get a task before this process runs it
MAX_DEATHS = 4  # consecutive deaths of workers after which none is started any more
LOOKAHEAD = 2  # tasks in flight per worker
SLICE_S = 0.05  # longest wait before the interpreter can handle an interrupt
END_S = 1.0  # longest wait for a killed process
# There is a worker per core: more threads in each would compete with the others
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_WINDOWS_FLAGS = ("CREATE_NO_WINDOW", "CREATE_NEW_PROCESS_GROUP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Task, Result]):
    """
    One kind of task, and its encoding.

    Attributes
    ----------
    function
        What a worker calls, bytes to bytes: ``"urisk_nb.risk.task_bytes:select_bytes"``.
    encode
        Returns a task as bytes.
    decode
        Returns a result from the worker's reply and the task.
    run_locally
        Runs a task in this process. It is used if workers fail, so that the task raises its own
        error.
    """

    function: str
    encode: Callable[[Task], bytes]
    decode: Callable[[bytes, Task], Result]
    run_locally: Callable[[Task], Result]


class WorkerPool:
    """
    A pool of `size` processes, started with the first task and ended by `close`.

    A task is sent to one worker at a time, and only a few tasks are taken ahead, so memory does not
    grow with their number. A task whose worker dies goes to another one, and then to this process.

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
        self._deaths = 0  # since the last reply of a worker
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
        Start all workers, and return a function that says whether one is ready.

        A worker is ready when Python has started and imported what the job needs.
        """
        futures = [self._submit(self._call, job.function, None) for _ in range(self.size)]
        return lambda: any(one.done() for one in futures)

    def map(self, job: Job[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the result of each task in order; an exception of a task is raised here."""
        pending: deque[tuple[Task, Future[bytes | None]]] = deque()
        try:
            for task in tasks:
                pending.append((task, self._submit(self._send, job, task)))
                if len(pending) >= LOOKAHEAD * self.size:
                    yield _finish(job, *pending.popleft())
            while pending:
                yield _finish(job, *pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()

    def close(self) -> None:
        """Kill the workers and wait until they are gone."""
        try:
            self.is_closed = True
            self._kill_all()
        finally:
            self._kill_all()  # again: an interrupt may have stopped the first time
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
        except RuntimeError:  # no more threads: this process runs the task
            nothing: Future[bytes | None] = Future()
            nothing.set_result(None)
            return nothing

    # In the threads of the pool -------------------------------------------------------------------

    def _send(self, job: Job[Task, Result], task: Task) -> bytes | None:
        """Send a task and return the worker's reply; None: this process has to run the task."""
        try:
            data = job.encode(task)
        except Exception:  # noqa: BLE001  a user object that cannot be pickled
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
        """Return an idle worker or a new one; None if no worker can be started."""
        with self._lock:
            if self.is_closed:
                return None
            if self._idle:
                return self._idle.pop()
            if self._deaths >= MAX_DEATHS:  # for example, memory is short
                return None
            try:
                one = _Worker()
            except (OSError, ValueError):  # no more processes or memory, or Python is missing
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
            start_new_session=True,  # an interrupt goes to the kernel's whole process group
            creationflags=flags,
        )
        # Popen was asked for pipes, so they are not None
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._is_initialized = False

    def call(self, function: str, data: bytes | None) -> tuple[bytes, bytes]:
        """
        Send a request and return the mark and the reply; without data, only import the function.

        Raises
        ------
        OSError, EOFError
            The process is gone.
        """
        if not self._is_initialized:  # not in __init__: the process may have ended by then
            worker.write_frame(self._requests, pickle.dumps(list(sys.path)))
            worker.skip_greeting(self._replies)
            self._is_initialized = True
        worker.write_frame(self._requests, pickle.dumps((function, data)))
        reply = worker.read_frame(self._replies)
        return reply[:1], reply[1:]

    def kill(self) -> None:
        """Kill the process; it holds nothing that has to be saved."""
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
    """Wait for a result so that interrupts are handled; run the task here if there is no reply."""
    while True:
        try:
            reply = future.result(timeout=SLICE_S)
        except FutureTimeout:
            continue
        return job.run_locally(task) if reply is None else job.decode(reply, task)
