"""
Measure what `%%ask` adds to a raw httpx stream of the same bytes:
python benchmarks/ask.py [--rounds 30] [--tokens 100] [--ms 5]

A scripted server (another process, no model) streams tokens at a steady pace to one real kernel.
Two cells take turns: `%%ask`, and a loop over `httpx.Client.stream` with the request that `%%ask`
sent, which shows its first line. Each is timed at the front end, from its execution to its first
output and to its reply, so the time includes the display. Prints the medians, their ratio, and the
delay of the first token; fails if the last frame was lost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the server and kernel of the tests

from harness import FakeOllama, Kernel
from records import Measured, compare, summarize

SETUP = """
%load_ext urisk_nb
%urisk_start --url {url}
import httpx
from urisk_nb import LLMManager
client = httpx.Client(base_url="{url}", timeout=60)
def raw(body):
    kind = {{"Content-Type": "application/json"}}
    with client.stream("POST", "/api/chat", content=body, headers=kind) as reply:
        lines = reply.iter_lines()
        next(lines)
        display({{"text/plain": "word"}}, raw=True)
        for _ in lines:
            pass
"""
ASK = "%%ask answer --no-history\nTell me."
RAW = "raw(body)"


class CellTime(NamedTuple):
    """Seconds from the execution of a cell to its first output with text, and to its end."""

    first_s: float
    total_s: float


def time_cell(kernel: Kernel, code: str) -> CellTime:
    began_s = time.perf_counter()
    cell = kernel.start(code)
    while not has_text(kernel.client.get_iopub_msg(timeout=30), cell):
        pass
    first_s = time.perf_counter() - began_s
    kernel.finish(cell)
    return CellTime(first_s, time.perf_counter() - began_s)


def has_text(message: dict, cell: str) -> bool:
    is_of_cell = message["parent_header"].get("msg_id") == cell
    return is_of_cell and "word" in message["content"].get("data", {}).get("text/plain", "")


def measure(scenario: Path, rounds: int) -> tuple[list[tuple[CellTime, CellTime]], str]:
    """Return the times of `%%ask` and of the raw stream in each round, and what a cell showed."""
    server, kernel = FakeOllama("--scenario", str(scenario)), Kernel({"URISK_JOURNAL": "off"})
    try:
        kernel.good(SETUP.format(url=server.url))
        kernel.good(ASK)
        kernel.good("body = LLMManager.get_instance().calls.records[-1].body; raw(body)")
        pairs = [(time_cell(kernel, ASK), time_cell(kernel, RAW)) for _ in range(rounds)]
        return pairs, kernel.good(ASK).outputs[-1][1]["data"]["text/plain"]
    finally:
        kernel.stop()
        server.stop()


def run_rounds(tokens: int, ms: float, rounds: int) -> list[tuple[CellTime, CellTime]]:
    """`measure` with a scenario of its own; no token may be lost on the way to the display."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "scenario.json"
        rule = {"answer": ["word "] * tokens, "token_ms": ms}
        scenario.write_text(json.dumps({"rules": [rule]}))
        pairs, shown = measure(scenario, rounds)
    if shown.count("word") != tokens:
        raise SystemExit(f"the last frame was lost: {shown[-200:]!r}")
    return pairs


def measure_ask(*, quick: bool) -> Measured:
    """The group `ask` of benchmarks/performance.py."""
    pairs = run_rounds(100, 5.0, 3 if quick else 21)
    asked_s = [ask.total_s for ask, _ in pairs]
    raw_s = [raw.total_s for _, raw in pairs]
    conditions = "100 tokens at 5 ms, in a real kernel"
    later_ms = [1e3 * (ask.first_s - plain.first_s) for ask, plain in pairs]
    return Measured(
        figures={
            "ask": compare(asked_s, raw_s, conditions),
            "ask first token": summarize(later_ms, "ms", conditions),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--ms", type=float, default=5.0)
    args = parser.parse_args()
    pairs = run_rounds(args.tokens, args.ms, args.rounds)
    print(f"{args.tokens} tokens at {args.ms:g} ms, {args.rounds} rounds:")
    print_total([(ask.total_s, raw.total_s) for ask, raw in pairs])
    print_first([(ask.first_s, raw.first_s) for ask, raw in pairs])


def print_total(pairs: list[tuple[float, float]]) -> None:
    asked, plain = (statistics.median(one) for one in zip(*pairs, strict=True))
    ratios = sorted(ask / raw for ask, raw in pairs)
    print(f"%%ask {1e3 * asked:.0f} ms, raw httpx {1e3 * plain:.0f} ms")
    print(f"ratio of the medians {asked / plain:.3f} x")
    print(f"ratio of each pair: median {statistics.median(ratios):.3f} x, worst {ratios[-1]:.3f} x")


def print_first(pairs: list[tuple[float, float]]) -> None:
    asked, plain = zip(*pairs, strict=True)
    later = [ask - raw for ask, raw in pairs]
    print(
        f"first token after {1e3 * statistics.median(asked):.1f} ms, raw httpx "
        f"{1e3 * statistics.median(plain):.1f} ms"
    )
    print(
        f"later: median {1e3 * statistics.median(later):.1f} ms; of the fastest ones "
        f"{1e3 * (min(asked) - min(plain)):.1f} ms"
    )


if __name__ == "__main__":
    main()
