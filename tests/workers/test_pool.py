"""Worker processes: what they do, and that none is left whatever happens."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from harness import alive, children, eventually
from pool_jobs import make_job
from urisk_nb.workers import pool as pool_module
from urisk_nb.workers.pool import WorkerPool

TELL = make_job("tell")


@pytest.fixture(autouse=True)
def nobody_stays():
    """No process is left by a test."""
    before = children()
    yield
    assert children() == before


def test_tasks_are_shared_out_and_results_keep_their_order():
    """Two processes work at once, and neither is this one."""
    with WorkerPool(2) as pool:
        found = list(pool.map(TELL, [[0.2 if n % 2 else 0.0, n] for n in range(6)]))
    assert [word for _, word, _ in found] == list(range(6))
    assert len({pid for pid, *_ in found}) == 2
    assert os.getpid() not in {pid for pid, *_ in found}


def test_workers_start_while_the_caller_does_something_else():
    """All of them; one that is there has imported what it needs."""
    with WorkerPool(3) as pool:
        is_there = pool.warm(TELL)
        eventually(is_there, 20, "a worker")
        assert len(children()) >= 3
        assert next(pool.map(TELL, [[0, "a"]]))[1] == "a"


def test_few_tasks_are_taken_ahead():
    """Two for each worker: memory does not grow with the number of tasks."""
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield [0.0, number]

    with WorkerPool(2) as pool:
        for number, _ in enumerate(pool.map(TELL, tasks())):
            assert len(taken) <= number + 4


def test_a_task_whose_worker_dies_is_done_by_the_caller_at_last(tmp_path):
    """Two workers try; the tasks beside it are done by others."""
    log = tmp_path / "log"
    with WorkerPool(1) as pool:
        assert list(pool.map(make_job("die"), [[0, str(log)]])) == [["here", str(log), ""]]
        assert len(set(log.read_text().split())) == 2
        assert next(pool.map(TELL, [[0.0, "next"]]))[1] == "next"


def test_workers_that_always_die_are_not_started_again_and_again(tmp_path):
    """There may be no memory for them: a few are tried, and all is done by the caller."""
    log = tmp_path / "log"
    with WorkerPool(1) as pool:
        assert len(list(pool.map(make_job("die"), [[0, str(log)]] * 20))) == 20
    assert len(log.read_text().split()) == 4


def test_workers_that_die_now_and_then_are_replaced_again_and_again(tmp_path):
    """Only those that die one after the other end the use of workers."""
    log = str(tmp_path / "log")
    with WorkerPool(1) as pool:
        for _ in range(3):
            list(pool.map(make_job("die"), [[0, log]]))
            ((pid, _, _),) = pool.map(TELL, [[0.0, "next"]])
            assert pid != "here"


def test_without_threads_all_is_done_here(monkeypatch):
    """Limits of a container may allow no more of them."""

    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with WorkerPool(2) as pool:
        assert list(pool.map(TELL, [[0, "a"], [0, "b"]])) == [["here", w, ""] for w in "ab"]
    monkeypatch.undo()


def test_a_worker_that_is_killed_in_the_middle_is_replaced():
    """The task is done again, by another worker."""
    with WorkerPool(1) as pool:
        (first,) = pool.map(TELL, [[0.0, "a"]])
        threading.Timer(0.3, os.kill, (first[0], signal.SIGKILL)).start()
        (second,) = pool.map(TELL, [[1.0, "b"]])
    assert second[1] == "b"
    assert second[0] not in (first[0], "here")


def test_an_error_is_that_of_the_task_itself():
    """What a worker cannot do is done here, and raises here what it raises."""

    def here(task):
        raise KeyError(task[1])

    with WorkerPool(1) as pool, pytest.raises(KeyError, match="mine"):
        list(pool.map(make_job("fail", here), [[0, "mine"]]))


def test_a_task_that_cannot_be_packed_is_done_here():
    """An object of the user's may not be picklable."""
    with WorkerPool(1) as pool:
        assert list(pool.map(TELL, [[0, {1, 2}]])) == [["here", {1, 2}, ""]]


@pytest.mark.parametrize("name", ["", None, "/bin/cat"])
def test_without_a_python_to_start_all_is_done_here(monkeypatch, name):
    """An embedded interpreter has no program of its own, or that of what it is embedded in."""
    monkeypatch.setattr(sys, "executable", name)
    with WorkerPool(2) as pool:
        assert list(pool.map(TELL, [[0, "a"], [0, "b"]])) == [["here", w, ""] for w in "ab"]


def test_a_frozen_program_is_not_started_again(monkeypatch, tmp_path):
    """Its `executable` is the user's own program."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with WorkerPool(1) as pool:
        assert list(pool.map(TELL, [[0, "a"]])) == [["here", "a", ""]]
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("lines", [1, 3000], ids=["a little", "much"])
def test_what_a_site_prints_when_python_starts_is_no_reply(monkeypatch, tmp_path, lines):
    """A `sitecustomize` of a company's may greet; too much of it is no worker."""
    python = tmp_path / "python"
    greet = f"i=0; while [ $i -lt {lines} ]; do echo {'Welcome! ' * 50}; i=$((i+1)); done"
    python.write_text(f'#!/bin/sh\n{greet}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with WorkerPool(1) as pool:
        ((pid, word, _),) = pool.map(TELL, [[0, "a"]])
    assert word == "a"
    assert (pid == "here") is (lines > 1)


def test_an_interrupt_in_the_middle_of_the_end_leaves_no_worker(monkeypatch):
    """It falls between two of them; the fixture sees that both are gone."""
    kill, left = pool_module._Worker.kill, [KeyboardInterrupt]

    def be_interrupted(self):
        kill(self)
        if left:
            raise left.pop()

    monkeypatch.setattr(pool_module._Worker, "kill", be_interrupted)
    with pytest.raises(KeyboardInterrupt), WorkerPool(2) as pool:
        list(pool.map(TELL, [[0.1, "a"]] * 4))


@pytest.mark.timing
def test_an_interrupt_ends_the_workers():
    """It is seen at once, though all of them are busy."""

    def work():
        with WorkerPool(2) as pool:
            list(pool.map(TELL, [[30.0, ""]] * 8))

    threading.Timer(0.7, signal.raise_signal, (signal.SIGINT,)).start()
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - began_s < 1.7


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    """The workers never import the user's program."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path[:0] = {sys.path!r}\nprint('begun')\n"
        "from pool_jobs import make_job\nfrom urisk_nb.workers.pool import WorkerPool\n"
        "with WorkerPool(2) as pool:\n"
        "    print(*pool.map(make_job('tell'), [[0, 'a'], [0, 'b']]), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("begun") == 1, done.stderr
    assert done.stdout.count("worker.py") == 2


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize("copied", [False, True], ids=["alone", "copied"])
def test_killed_with_its_caller(tmp_path, copied):
    """Also where a forked copy of the caller still holds the pipes to the workers."""
    fork = "import os, time\n" + ("os.fork() or time.sleep(5) or os._exit(0)\n" if copied else "")
    program = (
        f"import sys\nsys.path[:0] = {sys.path!r}\nimport threading, pool_jobs\n"
        f"worker = threading.Thread(target=pool_jobs.use_up, args=({str(tmp_path)!r},))\n"
        f"worker.start()\nimport pathlib\n"
        f"while not pathlib.Path({str(tmp_path)!r}, 'pids').exists(): pass\n{fork}worker.join()"
    )
    caller = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program])
    eventually((tmp_path / "pids").exists, 20, "the workers")
    time.sleep(0.3)
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    assert pids
    assert all(map(alive, pids))
    caller.kill()
    caller.wait()
    eventually(lambda: not any(map(alive, pids)), 1.5, "the end of the workers")
