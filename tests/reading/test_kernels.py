"""A real kernel that reads much evidence with workers: interrupted, and killed."""

import os
import signal
import time

import psutil
import pytest

from harness import Kernel, alive, eventually
from many_filings import write_folder

pytestmark = [pytest.mark.slow, pytest.mark.timing]

TICKERS = [f"T{number:02}" for number in range(60)]
CELL = f"%%risk --evidence filings --no-llm\n{', '.join(TICKERS)}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("much")
    write_folder(place / "filings", TICKERS, 1500)
    return place


@pytest.fixture
def kernel(folder):
    made = Kernel(env={"URISK_WORKERS": "2", "URISK_JOURNAL": "off"}, cwd=folder)
    made.good("%load_ext urisk_nb")
    yield made
    made.stop()


def list_workers(pid):
    """The worker processes of a kernel."""
    with psutil.Process(pid).oneshot():
        children = psutil.Process(pid).children()
    return [one.pid for one in children if any("worker.py" in part for part in one.cmdline())]


def find_pid(kernel):
    return int(kernel.value("__import__('os').getpid()"))


def test_an_interrupt_ends_the_reading_and_the_kernel_goes_on(kernel):
    """Within a second; no worker is left, and the next cell runs."""
    pid = find_pid(kernel)
    message = kernel.start(CELL)
    workers = eventually(lambda: list_workers(pid), 20, "workers")
    cell, felt_s = kernel.interrupt_when(message, lambda m: "reading the evidence" in str(m))
    assert cell.ename == "KeyboardInterrupt", cell.error
    assert cell.error.startswith("KeyboardInterrupt: stopped while reading the evidence of ")
    assert felt_s < 1.0
    assert not any(map(alive, workers))
    assert list_workers(pid) == []
    assert kernel.good(f"%%risk --evidence filings --no-llm\n{TICKERS[0]}").status == "ok"


def test_a_killed_kernel_leaves_no_worker(kernel):
    """They see it within a second, in the middle of a filing."""
    pid = find_pid(kernel)
    kernel.start(CELL)
    eventually(lambda: len(list_workers(pid)) == 2, 20, "workers")
    time.sleep(1.0)
    workers = list_workers(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, workers)), 1.5, "the end of the workers")
