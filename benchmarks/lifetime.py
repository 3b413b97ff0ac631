"""
Measure how fast a server ends after its kernel, and whether a replay gives the same table:
python benchmarks/lifetime.py [--rounds 3]

Real kernels, each with its own server (the fake Ollama, which has a runner like Ollama). The kernel
is ended by SIGKILL, SIGTERM and a segmentation fault; the time ends when neither server nor runner
runs. The replayed run's server has stopped by then.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # kernels and servers of the tests

import pandas as pd

from fake_ollama_env import FakeOllamaEnv, gone
from flaky_server import FlakyServer
from harness import Kernel, alive, eventually
from records import Figure, Measured, summarize, time_of
from urisk_nb import LLMManager, assess, replay

MAX_S = 30.0  # what takes longer than the goal is measured, too


def kill(number: signal.Signals) -> Callable[[Kernel], None]:
    """Return what ends a kernel by a signal."""
    return lambda kernel: os.kill(kernel.manager.provisioner.pid, number)


def crash(kernel: Kernel) -> None:
    """End a kernel by a segmentation fault; return when it has ended."""
    kernel.start("import ctypes; ctypes.string_at(0)")
    eventually(lambda: not alive(kernel.manager.provisioner.pid), 10)


WAYS = {"SIGKILL": kill(signal.SIGKILL), "SIGTERM": kill(signal.SIGTERM), "segfault": crash}


def time_end(way: str) -> float:
    """Return the seconds from the end of a kernel to the end of its server and runner."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        lab = FakeOllamaEnv(Path(folder), Kernel)
        try:
            kernel, *pids = lab.started()
            WAYS[way](kernel)
            return gone(pids, MAX_S)
        finally:
            lab.close()


def replay_run(tickers: int) -> tuple[bool, float]:
    """
    Return whether the replay equals the run's table, and its seconds. The server is gone by then,
    so a replay that asked one would fail.
    """
    symbols = [f"T{number}" for number in range(tickers)]
    evidence = {one: [f"{one} was fined {n + 2} times." for n in range(4)] for one in symbols}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["URISK_JOURNAL"] = str(Path(folder, "journal.sqlite3"))
        server = FlakyServer(folder)
        try:
            manager = LLMManager.initialize_sync(url=server.url, parallel=4)
            table = assess(symbols, evidence=evidence, manager=manager)
            manager.shutdown_sync()
        finally:
            server.kill()
        shown: list[pd.DataFrame] = []
        seconds = time_of(lambda: shown.append(replay(table["run_id"].iloc[0])))
        return shown[0].equals(table), seconds


def measure_lifetime(*, quick: bool) -> Measured:
    """The group `lifetime` of benchmarks/performance.py."""
    rounds, tickers = (1, 5) if quick else (3, 100)
    ends = {way: [time_end(way) for _ in range(rounds)] for way in WAYS}
    is_equal, seconds = replay_run(tickers)
    conditions = f"{tickers} tickers x 4 sentences, server stopped"
    every = list(itertools.chain.from_iterable(ends.values()))
    return Measured(
        figures={
            "kernel killed": Figure(
                value=max(every),
                unit="s",
                low=min(every),
                high=max(every),
                rounds=len(every),
                conditions=f"the slowest of {len(every)}: {', '.join(WAYS)}",
            ),
            **{
                f"kernel killed {way}": summarize(each, "s", "server and runner gone")
                for way, each in ends.items()
            },
            "replay differences": Figure(
                value=float(not is_equal), unit="differences", conditions=conditions
            ),
            "replay": Figure(value=seconds, unit="s", conditions=conditions),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    # A run asks for what it measures, and leaves nothing behind
    os.environ["URISK_JOURNAL"] = "off"
    for way in WAYS:
        for _ in range(args.rounds):
            print(f"{way}: all gone after {time_end(way):.3f} s")
    is_equal, seconds = replay_run(100)
    print(f"replay: equal {is_equal}, {seconds:.2f} s")


if __name__ == "__main__":
    main()
