"""
Measure a run on a local Dask cluster: python benchmarks/cluster.py [--workers 1 2 4]

Each worker is a process with its own scripted server (another process), which has 4 slots and takes
100 ms per call. The ideal is calls x time / (workers x slots). Needs the extra `scale`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the server of the tests

from pool import TICKERS, make_evidence, start_servers
from records import Curve, Figure, Measured, Skipped
from urisk_nb import assess

if TYPE_CHECKING:
    from distributed import Client

SLOTS, MS = 4, 100.0
HOST = "127.0.0.1"  # not reachable from other machines


def check() -> None:
    """Raise Skipped if a cluster cannot be started."""
    if importlib.util.find_spec("distributed") is None:
        raise Skipped("distributed is not installed")
    if "client" not in inspect.signature(assess).parameters:
        raise Skipped("this version of urisk_nb does not take a client of Dask")


@contextlib.contextmanager
def start_cluster(urls: list[str]) -> Iterator[Client]:
    """Start a cluster with one worker per server, yield its client, and close it."""
    # Inherited by its processes, which would log their start and end
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "error"
    from distributed import Client, Nanny, Scheduler, SpecCluster

    workers = {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "env": {"OLLAMA_URL": url, "URISK_PARALLEL": str(SLOTS), "URISK_JOURNAL": "off"},
                "host": HOST,
            },
        }
        for number, url in enumerate(urls)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": HOST, "port": 0, "dashboard_address": f"{HOST}:0"},
    }
    with SpecCluster(workers, scheduler) as cluster, Client(cluster) as client:
        client.wait_for_workers(len(urls), timeout=60)
        yield client


def time_cluster(workers: int, calls: int) -> float:
    """Return the makespan of a run, from the evidence to the table."""
    with (
        start_servers(workers, SLOTS, MS) as servers,
        start_cluster([server.url for server in servers]) as client,
    ):
        label(client, workers * SLOTS)  # warm up: imports, connections
        began_s = time.perf_counter()
        judged = label(client, calls)
        seconds = time.perf_counter() - began_s
    if judged != calls:
        raise SystemExit(f"{calls} calls, {judged} labels")
    return seconds


def label(client: Client, calls: int) -> int:
    """Run on the cluster, and return the number of labeled sentences."""
    table = assess(
        TICKERS, evidence=make_evidence(calls), params={"max_sentences": calls}, client=client
    )
    return int(table["judged"].sum())


def measure_cluster(*, quick: bool) -> Measured:
    """The group `cluster` of benchmarks/performance.py."""
    check()
    counts, calls = ((1, 2), 40) if quick else ((1, 2, 4), 800)
    found = {count: time_cluster(count, calls) for count in counts}
    ideals = {count: calls * MS / 1e3 / (count * SLOTS) for count in counts}
    conditions = f"{calls:,} calls of {MS:g} ms, {SLOTS} slots a worker"
    return Measured(
        figures={
            f"cluster {count}": Figure(
                value=found[count] / ideals[count],
                unit="x",
                ours=found[count],
                anchor=ideals[count],
                conditions=f"{conditions}; workers: {count}",
            )
            for count in counts
        },
        curves={
            "cluster": Curve(
                x=counts,
                y=[calls / found[count] for count in counts],
                ideal=[calls / ideals[count] for count in counts],
                conditions=conditions,
            )
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--calls", type=int, default=800)
    args = parser.parse_args()
    # No answer comes from a journal, and none is left behind
    os.environ["URISK_JOURNAL"] = "off"
    try:
        check()
    except Skipped as why:
        raise SystemExit(str(why)) from None
    for count in args.workers:
        seconds, ideal_s = time_cluster(count, args.calls), args.calls * MS / 1e3 / count / SLOTS
        print(f"{count} workers: {seconds:.2f} s, ideal {ideal_s:.2f} s, {seconds / ideal_s:.3f} x")


if __name__ == "__main__":
    main()
