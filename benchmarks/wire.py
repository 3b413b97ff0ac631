"""
Measure what the client costs over raw httpx: python benchmarks/wire.py [--tickers 500] [--rounds 3]

One scripted server (another process) answers the same bytes to both, in turns. Prints ratios of
times:
`generate` and `stream` of 100 tokens at 5 ms each, and `assess` of so many tickers with 4
sentences, 4 calls in flight and 100 ms a reply, against as many raw workers that send the same
requests. With --profile, prints where the event loop's thread spends its time in one `assess`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

sys.path.insert(
    0, str(Path(__file__).parents[1] / "tests")
)  # the scripted server is that of the tests

from harness import FakeOllama
from urisk_nb import assess
from urisk_nb.llm.manager import LLMManager

SENTENCES = 4
WORKERS = 4
TOKENS = 100
SCENARIO = {
    "slots": WORKERS,
    "models": ["llama3.1"],
    "rules": [
        {"contains": "tokens", "answer": ["word "] * TOKENS, "token_ms": 5},
        {"answer": ['{"risk":"legal","severity":3}'], "first_ms": 100},
    ],
}


def evidence_of(symbols: Sequence[str]) -> dict[str, list[str]]:
    """Sentences that are all different, so that each is asked."""
    return {
        symbol: [
            f"{symbol} was fined {number} million dollars by regulator {number} of its market."
            for number in range(1, SENTENCES + 1)
        ]
        for symbol in symbols
    }


async def stream_raw(client: httpx.AsyncClient, body: bytes) -> None:
    async with client.stream("POST", "/api/chat", content=body) as reply:
        async for _ in reply.aiter_raw():
            pass


def run_raw(url: str, bodies: Sequence[bytes], calls: int, workers: int) -> float:
    """Seconds that as many workers take for so many calls."""

    async def main() -> float:
        async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as client:
            await stream_raw(client, bodies[0])
            work = iter(list(itertools.islice(itertools.cycle(bodies), calls)))

            async def worker() -> None:
                for body in work:
                    await stream_raw(client, body)

            began = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(workers)))
            return time.perf_counter() - began

    return asyncio.run(main())


def time_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, rounds: int, ours: Callable[[], float], raw: Callable[[], float]) -> None:
    """Print the median of the ratios of pairs that were measured one after the other."""
    pairs = [(ours(), raw()) for _ in range(rounds)]
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{name:<28} {mine:8.3f} s   raw httpx {theirs:8.3f} s   ratio {ratio:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    os.environ["URISK_JOURNAL"] = "off"  # else the second round is answered from there
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "scenario.json"
        scenario.write_text(json.dumps(SCENARIO))
        server = FakeOllama("--scenario", str(scenario))
        manager = LLMManager.initialize_sync(url=server.url, parallel=WORKERS)
        try:
            measure(manager, args)
        finally:
            manager.shutdown_sync()
            server.stop()


def measure(manager: LLMManager, args: argparse.Namespace) -> None:
    prompt = f"Write {TOKENS} tokens."
    manager.generate_sync(prompt)
    (body,) = {record.body for record in manager.calls.records}

    def raw() -> float:
        return run_raw(manager.url, [body], 1, 1)

    ways: dict[str, Callable[[], object]] = {
        "generate": lambda: manager.generate_sync(prompt),
        "stream": lambda: list(manager.stream_sync(prompt)),
    }
    for name, way in ways.items():
        compare(name, 3 * args.rounds, functools.partial(time_of, way), raw)
    symbols = [f"T{number}" for number in range(args.tickers)]
    evidence = evidence_of(symbols)

    def label() -> None:
        assess(symbols, evidence=evidence, manager=manager)

    assess(symbols[:8], evidence=evidence, manager=manager)
    bodies = [record.body for record in manager.calls.records if b"fined" in record.body]
    calls = args.tickers * SENTENCES
    if args.profile:
        profile(label)
        return
    compare(
        f"assess {args.tickers} x {SENTENCES}",
        args.rounds,
        lambda: time_of(label),
        lambda: run_raw(manager.url, bodies, calls, WORKERS),
    )


def profile(work: Callable[[], object]) -> None:
    """Print the functions of the loop's thread that take the most time."""
    import cProfile
    import pstats

    from urisk_nb import event_loop

    seen = cProfile.Profile()
    event_loop.loop().call_soon_threadsafe(seen.enable)
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    event_loop.loop().call_soon_threadsafe(seen.disable)
    time.sleep(0.2)
    print(f"{took:.2f} s in all")
    pstats.Stats(seen).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
