"""What tests ask worker processes to do: bytes to bytes, found by name."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from urisk_nb.workers.pool import Job

HERE = "pool_jobs"


def tell(data):
    """The process, and what it was asked, after a while."""
    seconds, word = json.loads(data)
    time.sleep(seconds)
    print("what a library prints is no reply", flush=True)
    main = getattr(sys.modules["__main__"], "__file__", "")
    return json.dumps([os.getpid(), word, main]).encode()


def die(data):
    """The worker is gone in the middle; a file counts how often."""
    with open(json.loads(data)[1], "a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_):
    raise ValueError("only the caller can tell")


def make_job(function, here=lambda task: ["here", task[1], ""]):
    """Tasks are [seconds, word]."""
    return Job(
        function=f"{HERE}:{function}",
        encode=lambda task: json.dumps(task).encode(),
        decode=lambda data, _: json.loads(data),
        run_locally=here,
    )


def use_up(folder, size=2, tasks=200, seconds=30.0):
    """Be a program that is killed while its workers are busy; their ids go to a file."""
    from urisk_nb.workers.pool import WorkerPool

    with WorkerPool(size) as pool:
        pids = {pid for pid, *_ in pool.map(make_job("tell"), [[0.05, ""]] * 4)}
        Path(folder, "pids").write_text(" ".join(map(str, pids)))
        for _ in pool.map(make_job("tell"), [[seconds, ""]] * tasks):
            pass
