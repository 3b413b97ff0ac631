"""
Measure how long several servers take for the calls of one run, beside the ideal:
python benchmarks/pool.py [--servers 2] [--slots 4] [--calls 2000] [--ms 100]

Each server is a scripted one (another process, no model) that answers `slots` calls at a time,
each in a fixed time. The ideal is calls x time / (servers x slots). Prints the makespan, its ratio
to the ideal, the processor time of this process, and the calls that each server had; fails where a
call was lost or asked twice. One server (`--servers 1 --slots 8`) shows what is not the pool's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the server of the tests

from flaky_server import FlakyServer
from records import Curve, Figure, Measured
from urisk_nb import LLMManager
from urisk_nb.session import label_sync, open_run

TICKERS = [f"T{number}" for number in range(20)]


@contextlib.contextmanager
def start_servers(count: int, slots: int, ms: float) -> Iterator[list[FlakyServer]]:
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, str(number)) for number in range(count)]
        for folder in folders:
            folder.mkdir()
        servers = [FlakyServer(folder, service_s=ms / 1e3, slots=slots) for folder in folders]
        try:
            yield servers
        finally:
            for server in servers:
                server.kill()


def make_evidence(calls: int) -> list[dict[str, str]]:
    return [
        {"ticker": TICKERS[n % len(TICKERS)], "text": f"The company was fined {n} times this year."}
        for n in range(calls)
    ]


def label(manager: LLMManager, calls: int) -> tuple[float, float, int]:
    """Return the makespan and the processor time of the calls, and the sentences with a label."""
    run = open_run(TICKERS, evidence=make_evidence(calls), params={"max_sentences": calls})
    began_s, cpu_s = time.perf_counter(), time.process_time()
    label_sync(run, manager)
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return seconds, cpu_s, int(run.table()["judged"].sum())


def time_calls(servers: int, slots: int, calls: int, ms: float) -> tuple[float, float, list[int]]:
    """
    Return the makespan of so many calls, the processor time of this process, and how many calls
    each server had. Ends the program where a call was lost or asked twice.
    """
    places = servers * slots
    with start_servers(servers, slots, ms) as started:
        manager = LLMManager.initialize_sync(url=[one.url for one in started], parallel=places)
        label(manager, places)  # imports, connections
        warm = [len(server.asked()) for server in started]
        seconds, cpu_s, labeled = label(manager, calls)
        manager.shutdown_sync()
        asked = [len(server.asked()) - n for server, n in zip(started, warm, strict=True)]
    if labeled != calls or sum(asked) != calls:
        raise SystemExit(f"{calls} calls, {labeled} labels, asked {asked}")
    return seconds, cpu_s, asked


def measure_servers(*, quick: bool) -> Measured:
    """The group `servers` of benchmarks/performance.py: the makespan on 1 to 4 servers."""
    slots, ms = 4, 100.0
    counts = {1: 600, 2: 2000, 3: 1200, 4: 2000}  # calls; 2 and 4 servers have goals
    figures, ratios = {}, []
    for servers, full in counts.items():
        calls = full // 25 if quick else full
        seconds, _, _ = time_calls(servers, slots, calls, ms)
        ideal_s = calls * ms / 1e3 / (servers * slots)
        ratios.append(seconds / ideal_s)
        figures[f"servers {servers}"] = Figure(
            value=seconds / ideal_s,
            unit="x",
            conditions=f"{calls:,} calls of {ms:g} ms, {slots} slots a server",
            ours=seconds,
            anchor=ideal_s,
        )
    per_s = [slots * servers / (ms / 1e3) for servers in counts]
    curve = Curve(
        x=tuple(counts),
        y=[ideal / ratio for ideal, ratio in zip(per_s, ratios, strict=True)],
        ideal=per_s,
        conditions=f"calls of {ms:g} ms, {slots} slots a server",
    )
    return Measured(figures=figures, curves={"servers": curve})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--ms", type=float, default=100.0)
    args = parser.parse_args()
    os.environ["URISK_JOURNAL"] = "off"
    seconds, cpu_s, asked = time_calls(args.servers, args.slots, args.calls, args.ms)
    ideal_s = args.calls * args.ms / 1e3 / (args.servers * args.slots)
    print(f"{args.calls} calls of {args.ms:g} ms, {args.servers} servers of {args.slots} slots:")
    print(f"makespan {seconds:.2f} s, ideal {ideal_s:.2f} s, ratio {seconds / ideal_s:.3f}")
    print(f"{cpu_s:.2f} s of this process's processor time; calls of each server: {asked}")


if __name__ == "__main__":
    main()
