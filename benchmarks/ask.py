"""
Measure what `%%ask` adds to a raw httpx stream of the same bytes:
python benchmarks/ask.py [--rounds 30] [--tokens 100] [--ms 5]

A scripted server (another process, no model) streams tokens at a steady pace to one real kernel.
Two cells take turns: `%%ask`, and a loop over `httpx.Client.stream` with the request that `%%ask`
sent. Each is timed at the front end, from its execution to its reply, so the display is part of it.
Prints both medians and their ratio; fails where the last frame was lost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the server and kernel of the tests

from harness import FakeOllama, Kernel

SETUP = """
%load_ext urisk_nb
%urisk_start --url {url}
import httpx
from urisk_nb import LLMManager
client = httpx.Client(base_url="{url}", timeout=60)
def raw(body):
    kind = {{"Content-Type": "application/json"}}
    with client.stream("POST", "/api/chat", content=body, headers=kind) as reply:
        for _ in reply.iter_lines():
            pass
"""
ASK = "%%ask answer\nTell me."
RAW = "raw(body)"


def time_cell(kernel: Kernel, code: str) -> float:
    began_s = time.perf_counter()
    kernel.good(code)
    return time.perf_counter() - began_s


def measure(scenario: Path, rounds: int) -> tuple[list[tuple[float, float]], str]:
    """Return the seconds of `%%ask` and of the raw stream in each round, and what a cell showed."""
    server, kernel = FakeOllama("--scenario", str(scenario)), Kernel()
    try:
        kernel.good(SETUP.format(url=server.url))
        kernel.good(ASK)
        kernel.good("body = LLMManager.get_instance().calls.records[-1].body; raw(body)")
        pairs = [(time_cell(kernel, ASK), time_cell(kernel, RAW)) for _ in range(rounds)]
        return pairs, kernel.good(ASK).outputs[-1][1]["data"]["text/plain"]
    finally:
        kernel.stop()
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--ms", type=float, default=5.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "scenario.json"
        rule = {"answer": ["word "] * args.tokens, "token_ms": args.ms}
        scenario.write_text(json.dumps({"rules": [rule]}))
        pairs, shown = measure(scenario, args.rounds)
    if shown.count("word") != args.tokens:
        raise SystemExit(f"the last frame was lost: {shown[-200:]!r}")
    asked, plain = (statistics.median(one) for one in zip(*pairs, strict=True))
    ratios = sorted(ask / raw for ask, raw in pairs)
    print(f"{args.tokens} tokens at {args.ms:g} ms, {args.rounds} rounds:")
    print(f"%%ask {1e3 * asked:.0f} ms, raw httpx {1e3 * plain:.0f} ms")
    print(f"ratio of the medians {asked / plain:.3f} x")
    print(f"ratio of each pair: median {statistics.median(ratios):.3f} x, worst {ratios[-1]:.3f} x")


if __name__ == "__main__":
    main()
