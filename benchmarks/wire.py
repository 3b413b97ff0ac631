"""
Measure what the client costs over raw httpx: python benchmarks/wire.py [--tickers 500] [--rounds 3]

One scripted server (another process) sends the same bytes to all clients, which take turns. Prints
ratios of times to raw httpx: `generate` and `stream` of 100 tokens at 5 ms each, and `assess` with
4 sentences per ticker, 4 calls in flight and 100 ms per reply, against as many workers that send
the same requests. It also measures ollama-python and langchain-ollama if they are installed. With
--profile, prints where the event loop's thread spends its time in one `assess`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[1] / "tests")
)  # the scripted server is that of the tests

from anchors import HTTPX, time_client, try_clients
from harness import FakeOllama
from records import Figure, Measured, compare, take_turns, time_of
from urisk_nb import assess
from urisk_nb.llm.manager import LLMManager

OURS = "urisk_nb"
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


@contextlib.contextmanager
def open_session() -> Iterator[LLMManager]:
    """A session with a scripted server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "scenario.json"
        scenario.write_text(json.dumps(SCENARIO))
        server = FakeOllama("--scenario", str(scenario))
        manager = LLMManager.initialize_sync(url=server.url, parallel=WORKERS)
        try:
            yield manager
        finally:
            manager.shutdown_sync()
            server.stop()


def time_clients(
    manager: LLMManager, bodies: Sequence[bytes], calls: int, workers: int
) -> tuple[dict[str, Callable[[], float]], list[str]]:
    """The other clients, as ways that take turns; and what is said of those that are left out."""
    working, notes = try_clients(manager.url, bodies[0])
    ways = {
        name: functools.partial(time_client, name, manager.url, bodies, calls, workers)
        for name in working
    }
    return ways, notes


def name_figure(what: str, client: str) -> str:
    """The key of a figure: ours has the name of what is measured."""
    return what if client == OURS else f"{what} {client}"


def compare_all(what: str, found: dict[str, list[float]], conditions: str) -> dict[str, Figure]:
    """The ratio of each client, and of what else took turns, to raw httpx."""
    return {
        name_figure(what, name): compare(seconds, found[HTTPX], conditions)
        for name, seconds in found.items()
        if name != HTTPX
    }


def measure_streams(manager: LLMManager, rounds: int) -> Measured:
    """One answer, token by token."""
    prompt = f"Write {TOKENS} tokens."
    manager.generate_sync(prompt)
    others, notes = time_clients(manager, [manager.calls.records[-1].body], 1, 1)
    found = take_turns(
        {
            OURS: functools.partial(time_of, lambda: manager.generate_sync(prompt)),
            "by stream()": functools.partial(time_of, lambda: list(manager.stream_sync(prompt))),
            **others,
        },
        rounds,
    )
    figures = compare_all("generate", found, f"{TOKENS} tokens at 5 ms")
    return Measured(figures=figures, notes=notes)


def measure_runs(manager: LLMManager, tickers: int, rounds: int) -> Measured:
    """Runs of so many tickers; the other clients are asked the same questions."""
    assess(["WARM"], evidence=evidence_of(["WARM"]), manager=manager)  # imports, connections
    asked = [record.body for record in manager.calls.records if b"WARM was fined" in record.body]
    symbols = [f"T{number}" for number in range(tickers)]
    evidence = evidence_of(symbols)
    bodies = [one.replace(b"WARM was", f"{name} was".encode()) for name in symbols for one in asked]
    others, notes = time_clients(manager, bodies, len(bodies), WORKERS)
    ways = {
        OURS: functools.partial(
            time_of, lambda: assess(symbols, evidence=evidence, manager=manager)
        ),
        **others,
    }
    found = take_turns(ways, rounds)
    conditions = f"{tickers} tickers x {SENTENCES} sentences, {WORKERS} in flight, 100 ms each"
    return Measured(figures=compare_all("risk", found, conditions), notes=notes)


def measure_generate(*, quick: bool) -> Measured:
    """The group `generate` of benchmarks/performance.py."""
    with open_session() as manager:
        return measure_streams(manager, 3 if quick else 9)


def measure_risk(*, quick: bool) -> Measured:
    """The group `risk`: 2,000 calls of each client, in two rounds that take turns."""
    tickers, rounds = (10, 2) if quick else (250, 2)
    with open_session() as manager:
        return measure_runs(manager, tickers, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    # A run asks for what it measures, and leaves nothing behind
    os.environ["URISK_JOURNAL"] = "off"
    with open_session() as manager:
        if args.profile:
            symbols = [f"T{number}" for number in range(args.tickers)]
            evidence = evidence_of(symbols)
            profile(lambda: assess(symbols, evidence=evidence, manager=manager))
            return
        figures = {
            **measure_streams(manager, 3 * args.rounds).figures,
            **measure_runs(manager, args.tickers, args.rounds).figures,
        }
    for name, one in figures.items():
        print(
            f"{name:<28} {one.ours:8.3f} s   raw httpx {one.anchor:8.3f} s   ratio {one.value:.3f} "
            f"({one.low:.3f} to {one.high:.3f})"
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
