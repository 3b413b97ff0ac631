"""
Measure what the dashboard costs: python benchmarks/dashboard.py [--seconds 60] [--rate 50] [--open]

Sends the same paced load to the fake Ollama (another process) from three kernels: without the
dashboard, with a visible dashboard, and with a hidden one. They take turns, so that other load on
the machine affects all alike. Prints the kernel's CPU time, the calls and their latency, what went
to the browser, and the kernel's memory at the start, after a third and at the end. This program
plays the browser: it reads and counts messages, and draws nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

# The fake Ollama and the front end are those of the tests
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cost_probe import SCENARIO, Cost, Metered
from harness import FakeOllama
from urisk_nb.llm.calls import percentile

WAYS = ("none", "viewed", "unviewed")
ROUNDS = 6
HEAD = (
    "",
    "CPU s",
    "of a core",
    "more",
    "calls",
    "p50 ms",
    "p95 ms",
    "ratio",
    "msg/s",
    "kB/s",
    "MB at first",
    "a third",
    "at last",
)


@dataclass(slots=True, kw_only=True)
class Way:
    """A kernel, and what was measured of it."""

    name: str
    front: Metered
    costs: list[Cost] = field(default_factory=list)
    latencies_s: list[list[float]] = field(default_factory=list)  # of each round
    resident_bytes: list[int] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of one processor, in the median round."""
        return statistics.median(cost.share for cost in self.costs)

    def total(self, name: str) -> float:
        return sum(getattr(cost, name) for cost in self.costs)

    def p_ms(self, share: float) -> float:
        """
        A percentile of the latencies, in the median round: a machine that stands still for a second
        is no matter of the dashboard.
        """
        return 1e3 * statistics.median(percentile(round_s, share) for round_s in self.latencies_s)


def warm(way: Way, rate: float, *, inspector: bool) -> None:
    """
    What is imported and connected once is not counted; nor is the memory of the first 200 calls,
    which are kept.
    """
    way.front.begin(rate, 5)
    way.front.latencies()
    if way.name != "none":
        way.front.show()
        way.front.probe(1)
        if inspector:
            way.front.press("calls")
        way.front.settle()
        way.front.probe(0)
    way.front.settle()
    way.resident_bytes.append(way.front.resident_bytes)


def take_turn(way: Way, seconds: float, rate: float) -> None:
    way.front.begin(rate, seconds + 1)
    if way.name == "viewed":
        way.front.probe(1)
    way.front.settle(0.5)
    way.costs.append(way.front.watch(seconds))
    way.latencies_s.append(way.front.latencies())
    if way.name == "viewed":
        way.front.probe(0)
    way.resident_bytes.append(way.front.resident_bytes)


def measure(seconds: float, rate: float, *, inspector: bool) -> list[Way]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        plan = Path(folder) / "scenario.json"
        plan.write_text(json.dumps(SCENARIO))
        server = FakeOllama("--scenario", str(plan))
        stack.callback(server.stop)
        ways = []
        for name in WAYS:
            ways.append(Way(name=name, front=Metered(server.url)))
            stack.callback(ways[-1].front.stop)
            warm(ways[-1], rate, inspector=inspector)
        for _ in range(ROUNDS):
            for way in ways:
                take_turn(way, seconds / ROUNDS, rate)
        return ways


def row(way: Way, base: Way) -> list[str]:
    memory = [f"{way.resident_bytes[number] / 1e6:.1f}" for number in (0, ROUNDS // 3, ROUNDS)]
    seconds = way.total("seconds")
    return [
        way.name,
        f"{way.total('cpu_s'):.2f}",
        f"{way.share:.1%}",
        f"{way.share - base.share:+.1%}",
        f"{sum(map(len, way.latencies_s))}",
        f"{way.p_ms(50):.1f}",
        f"{way.p_ms(95):.1f}",
        f"{way.p_ms(95) / base.p_ms(95):.2f}",
        f"{way.total('messages') / seconds:.1f}",
        f"{way.total('bytes') / seconds / 1e3:.1f}",
        *memory,
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="how long each way is measured, all turns together (default 60)",
    )
    parser.add_argument("--rate", type=float, default=50, help="calls a second (default 50)")
    parser.add_argument("--open", action="store_true", help="with the list of calls open, too")
    given = parser.parse_args(arguments)
    ways = measure(given.seconds, given.rate, inspector=given.open)
    rows = [list(HEAD), *(row(way, ways[0]) for way in ways)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
