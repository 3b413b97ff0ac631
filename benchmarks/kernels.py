"""
Measure several kernels on one server: python benchmarks/kernels.py [--kernels 8]

Real kernels, each with its own session, start one `%%risk` at the same moment on one scripted
server (another process) with 4 slots and 100 ms per call. Prints the seconds of each kernel and of
all, the ideal, and how much longer the last kernel takes than the first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # kernels and servers of the tests

from flaky_server import FlakyServer
from harness import Kernel
from records import Curve, Figure, Measured

SLOTS, SERVICE_S = 4, 0.1
SENTENCES = 4
SETUP = """
%load_ext urisk_nb
%urisk_start --url {url} --parallel {slots}
notes = [{{"ticker": f"T{{n // {sentences}}}", "text": f"It was fined {{n + {start}}} times."}}
         for n in range({calls})]
warm = [{{"ticker": "W", "text": "It opened shop {start}."}}]
"""
WARM = "%%risk --evidence warm\nW"
RISK = "%%risk --evidence notes\n{tickers}"


def start_kernels(url: str, count: int, calls: int) -> list[Kernel]:
    """Return kernels that have a session, and notes of their own."""
    kernels = [Kernel() for _ in range(count)]
    for number, kernel in enumerate(kernels):
        start = number * calls
        kernel.good(
            SETUP.format(url=url, slots=SLOTS, sentences=SENTENCES, start=start, calls=calls)
        )
        kernel.good(WARM)
    return kernels


def run_at_once(kernels: list[Kernel], calls: int) -> list[float]:
    """Return the seconds of each kernel's cell; all start at once."""
    cell = RISK.format(tickers=", ".join(f"T{n}" for n in range(calls // SENTENCES)))
    barrier, seconds = threading.Barrier(len(kernels)), [0.0] * len(kernels)

    def run(number: int) -> None:
        barrier.wait()
        began_s = time.perf_counter()
        kernels[number].good(cell, timeout=120)
        seconds[number] = time.perf_counter() - began_s

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(kernels))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def time_kernels(count: int, calls: int) -> list[float]:
    """Return the seconds of each of so many kernels with so many calls each."""
    with tempfile.TemporaryDirectory() as folder:
        server = FlakyServer(folder, service_s=SERVICE_S, slots=SLOTS)
        kernels: list[Kernel] = []
        try:
            kernels += start_kernels(server.url, count, calls)
            return run_at_once(kernels, calls)
        finally:
            for kernel in kernels:
                kernel.stop()
            server.kill()


def measure_kernels(*, quick: bool) -> Measured:
    """The group `kernels` of benchmarks/performance.py."""
    counts, calls = ((1, 2), 8) if quick else ((1, 2, 4, 8), 40)
    found = {count: time_kernels(count, calls) for count in counts}
    most = counts[-1]
    conditions = f"{calls} calls of {1e3 * SERVICE_S:g} ms each kernel, one server of {SLOTS} slots"
    ideal = [count * calls * SERVICE_S / SLOTS for count in counts]
    return Measured(
        figures={
            "kernels makespan": Figure(
                value=max(found[most]) / ideal[-1],
                unit="x",
                ours=max(found[most]),
                anchor=ideal[-1],
                conditions=f"{most} kernels, {conditions}",
            ),
            "kernels fairness": Figure(
                value=max(found[most]) / min(found[most]),
                unit="x",
                ours=max(found[most]),
                anchor=min(found[most]),
                conditions=f"the last of {most} kernels over the first, {conditions}",
            ),
        },
        curves={
            "kernels last": Curve(
                x=counts,
                y=[max(each) for each in found.values()],
                ideal=ideal,
                conditions=conditions,
            ),
            "kernels first": Curve(
                x=counts, y=[min(each) for each in found.values()], conditions=conditions
            ),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=int, default=8)
    parser.add_argument("--calls", type=int, default=40)
    args = parser.parse_args()
    # A run asks for what it measures, and leaves nothing behind
    os.environ["URISK_JOURNAL"] = "off"
    seconds = time_kernels(args.kernels, args.calls)
    print("each kernel: " + ", ".join(f"{one:.2f}" for one in seconds) + " s")
    ideal_s = args.kernels * args.calls * SERVICE_S / SLOTS
    print(f"all: {max(seconds):.2f} s, ideal {ideal_s:.2f} s, ratio {max(seconds) / ideal_s:.3f}")
    print(f"the last over the first: {max(seconds) / min(seconds):.2f}")


if __name__ == "__main__":
    main()
