"""
Measure what the journal costs: a look-up among many answers, and whole runs with and without it.

    python benchmarks/journal.py [answers] [calls] [tickers]

The model is a function that takes 5 ms. Runs with and without a journal alternate, and the
fastest of each counts. The slowest look-up is also given in CPU time, which excludes waiting.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from records import Figure, Measured, compare
from urisk_nb.journal.store import Batch, Entry, Store
from urisk_nb.llm.labels import Judge, LabelMethod
from urisk_nb.session import assess, label_sync, open_run

CALL_S, ROUNDS, PARALLEL, DAYS = 0.005, 3, 4, 252
ANSWER = json.dumps({"risk": "business", "severity": 2})


class Answer(str):
    done_reason, logprobs = "stop", ()
    timing = SimpleNamespace(tokens=11, prompt_tokens=900, total_s=CALL_S, attempts=1)


class Manager:
    """The part of a manager that a run needs."""

    model = judge = "model"
    engine, version, url, num_ctx = "ollama", "0", "http://127.0.0.1:1", 4096
    settings = SimpleNamespace(outage_wait_s=0.0)
    is_managed, slots, parallel = False, 1, PARALLEL

    async def find_judges(self, *models):
        return tuple(Judge(model=one, method=LabelMethod.SCHEMA, digest="d") for one in models)

    async def is_up(self, _=None):
        return True

    @contextlib.contextmanager
    def allow_parallel(self, _):
        yield

    async def ask(self, *_):
        await asyncio.sleep(CALL_S)
        return Answer(ANSWER)


def look_up(path, count):
    """
    The seconds of a look-up among `count` answers, half of them unknown: median and worst of 1,000,
    and the worst in processor time.
    """
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    body = json.dumps({"text": ANSWER, "more": "x" * 400}).encode()
    with Store(path) as store:
        for start in range(0, count, 5000):
            some = keys[start : start + 5000]
            store.add(Batch("r", answers=[Entry.of(body + key, key=key) for key in some]))
    draw = random.Random(1)
    seconds, cpu = [], []
    with Store(path) as store:
        for number in range(1000):
            key = draw.choice(keys) if number % 2 else draw.randbytes(32)
            began, began_cpu = time.perf_counter(), time.thread_time()
            found = store.find_answer(key)
            seconds.append(time.perf_counter() - began)
            cpu.append(time.thread_time() - began_cpu)
            assert (found is not None) == bool(number % 2)
    seconds.sort()
    return seconds[500], seconds[-1], max(cpu)


def time_run(journal, calls):
    """Wall and CPU seconds of a run, and how many of its questions were known."""
    os.environ["URISK_JOURNAL"] = str(journal)
    tickers = [f"T{number}" for number in range(calls // 4)]
    news = pd.DataFrame(
        [(one, f"Demand for product {n} of {one} fell.") for one in tickers for n in range(4)],
        columns=["ticker", "text"],
    )
    run = open_run(tickers, evidence=news)
    wall, cpu = time.perf_counter(), time.process_time()
    label_sync(run, Manager())
    return time.perf_counter() - wall, time.process_time() - cpu, run.progress.known


def time_prices(journal, prices):
    """Wall and CPU seconds of a run of prices alone."""
    os.environ["URISK_JOURNAL"] = str(journal)
    wall, cpu = time.perf_counter(), time.process_time()
    assess(list(prices.columns), prices=prices, params={"llm": False})
    return time.perf_counter() - wall, time.process_time() - cpu


def compare_prices(folder, tickers):
    """Print the cost of recording the prices of many tickers."""
    moves = np.random.default_rng(1).standard_t(4, size=(DAYS, tickers)) * 0.01
    prices = pd.DataFrame(
        100 * np.cumprod(1 + moves, axis=0),
        index=pd.bdate_range("2024-01-01", periods=DAYS),
        columns=[f"T{number}" for number in range(tickers)],
    )
    files = [Path(folder, f"prices{number}.sqlite3") for number in range(ROUNDS)]
    time_prices("off", prices)
    off, on = [], []
    for file in files:
        off.append(time_prices("off", prices))
        on.append(time_prices(file, prices))
    (off_s, off_cpu), (on_s, on_cpu) = min(off), min(on)
    size = files[0].stat().st_size / 1e6
    print(f"{tickers:,} tickers x {DAYS} days, no model: {off_s:.2f} s")
    print(
        f"with the journal: {on_s:.2f} s (CPU {off_cpu:.2f} -> {on_cpu:.2f}), {size:.0f} MB on disk"
    )


def measure_journal(*, quick):
    """The group `journal` of benchmarks/performance.py."""
    calls, answers, rounds = (200, 2_000, 2) if quick else (2_000, 100_000, 4)
    off, on = [], []
    with tempfile.TemporaryDirectory() as folder:
        median_s, worst_s, _ = look_up(Path(folder, "many.sqlite3"), answers)
        time_run("off", calls)
        for number in range(rounds):
            off.append(time_run("off", calls)[0])
            on.append(time_run(Path(folder, f"{number}.sqlite3"), calls)[0])
        again_s, _, known = time_run(Path(folder, "0.sqlite3"), calls)
    conditions = f"{calls:,} calls of {CALL_S * 1e3:g} ms, {PARALLEL} at once"
    return Measured(
        figures={
            "journal": compare(on, off, conditions),
            "journal again": Figure(
                value=again_s,
                unit="s",
                conditions=f"the same {known:,} questions again",
            ),
            "journal look-up": Figure(
                value=1e3 * median_s,
                unit="ms",
                high=1e3 * worst_s,
                rounds=1000,
                conditions=f"one answer among {answers:,}",
            ),
        }
    )


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    calls = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000
    tickers = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        median, worst, cpu = (one * 1e3 for one in look_up(Path(folder, "many.sqlite3"), count))
        print(
            f"look-up among {count:,}: median {median:.3f} ms, worst {worst:.2f} ms "
            f"(worst CPU {cpu:.2f} ms)"
        )
        compare_prices(folder, tickers)
        off, on = [], []
        time_run("off", calls)
        for number in range(ROUNDS):
            off.append(time_run("off", calls))
            on.append(time_run(Path(folder, f"{number}.sqlite3"), calls))
        again = time_run(Path(folder, "0.sqlite3"), calls)
    (off_s, off_cpu, _), (on_s, on_cpu, _) = min(off), min(on)
    print(f"{calls:,} calls of {CALL_S * 1e3:g} ms, {PARALLEL} in flight: {off_s:.2f} s")
    print(
        f"with the journal: {on_s:.2f} s, {on_s / off_s:.3f} x (CPU {off_cpu:.2f} -> {on_cpu:.2f})"
    )
    print(f"again: {again[0]:.2f} s, {again[2]:,} answers known")


if __name__ == "__main__":
    main()
