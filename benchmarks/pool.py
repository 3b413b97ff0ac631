"""
Measure the calls of one run on several servers against the ideal and raw httpx:
python benchmarks/pool.py [--servers 2] [--slots 4] [--calls 2000] [--ms 100] [--rounds 1]

Each server is scripted (another process, no model) and answers `slots` calls at a time, each in a
fixed time. The ideal is calls x time / (servers x slots). Raw httpx sends the same requests with as
many workers, alternating with the runs. Prints the makespans, their ratios to the ideal, and the
CPU time of this process; fails if a call was lost or sent twice. A single server (`--servers 1
--slots 8`) shows the overhead without the pool.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import httpx

from fixed_time_server import FixedTimeServer
from records import Curve, Figure, Measured
from urisk_nb import LLMManager
from urisk_nb.session import label_sync, open_run

TICKERS = [f"T{number}" for number in range(20)]
JSON = {"Content-Type": "application/json"}


class Cost(NamedTuple):
    """Wall-clock and CPU seconds of this process for a run."""

    wall_s: float
    cpu_s: float


def measure(work: Callable[[], object]) -> Cost:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - began_s, time.process_time() - cpu_s)


@contextlib.contextmanager
def start_servers(count: int, slots: int, ms: float) -> Iterator[list[FixedTimeServer]]:
    servers = [FixedTimeServer(ms / 1e3, slots) for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def make_text(number: int) -> str:
    return f"The company was fined {number} times this year."


def make_evidence(calls: int) -> list[dict[str, str]]:
    return [{"ticker": TICKERS[n % len(TICKERS)], "text": make_text(n)} for n in range(calls)]


def label(manager: LLMManager, calls: int) -> tuple[Cost, int]:
    """Return the cost of a run's calls, and the number of labeled sentences."""
    run = open_run(TICKERS, evidence=make_evidence(calls), params={"max_sentences": calls})
    cost = measure(lambda: label_sync(run, manager))
    return cost, int(run.table()["judged"].sum())


def ask_raw(urls: Sequence[str], slots: int, bodies: Sequence[bytes]) -> Cost:
    """Return the cost of the same requests with `slots` httpx workers per server."""

    async def main() -> Cost:
        async with contextlib.AsyncExitStack() as stack:
            workers = []
            work = iter(bodies)
            for url in urls:
                client = httpx.AsyncClient(base_url=url, timeout=None, trust_env=False)
                await stack.enter_async_context(client)
                workers += [ask_each(client, work) for _ in range(slots)]
            return await measure_all(workers)

    return asyncio.run(main())


async def ask_each(client: httpx.AsyncClient, work: Iterator[bytes]) -> None:
    for body in work:
        async with client.stream("POST", "/api/chat", content=body, headers=JSON) as reply:
            async for _ in reply.aiter_raw():
                pass


async def measure_all(workers: Sequence[Awaitable[None]]) -> Cost:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*workers)
    return Cost(time.perf_counter() - began_s, time.process_time() - cpu_s)


def describe(name: str, costs: Sequence[Cost], ideal_s: float, calls: int) -> str:
    wall_s = statistics.median(cost.wall_s for cost in costs)
    cpu_ms = 1e3 * statistics.median(cost.cpu_s for cost in costs) / calls
    return (
        f"{name:<10} {wall_s:.2f} s, {wall_s / ideal_s:.3f} of the ideal; "
        f"{cpu_ms:.2f} ms of CPU time per call"
    )


class Makespans(NamedTuple):
    """The costs of the same calls with urisk_nb and raw httpx, one per round."""

    ours: list[Cost]
    raw: list[Cost]
    asked: list[int]  # calls of each server in the last run


def time_calls(servers: int, slots: int, calls: int, ms: float, rounds: int = 1) -> Makespans:
    """Return the makespans; exit if a call was lost or sent twice."""
    with start_servers(servers, slots, ms) as started:
        urls = [server.url for server in started]
        manager = LLMManager.initialize_sync(url=urls, parallel=servers * slots)
        label(manager, servers * slots)  # warm up: imports, connections
        (first,) = (one.body for one in manager.calls.records if make_text(0).encode() in one.body)
        bodies = [first.replace(make_text(0).encode(), make_text(n).encode()) for n in range(calls)]
        found = Makespans([], [], [])
        for _ in range(rounds):
            before = [server.count_asked() for server in started]
            cost, labeled = label(manager, calls)
            found.asked[:] = [one.count_asked() - n for one, n in zip(started, before, strict=True)]
            if labeled != calls or sum(found.asked) != calls:
                raise SystemExit(f"{calls} calls, {labeled} labels, asked {found.asked}")
            found.ours.append(cost)
            found.raw.append(ask_raw(urls, slots, bodies))
        manager.shutdown_sync()
    return found


def measure_servers(*, quick: bool) -> Measured:
    """The group `servers` of benchmarks/performance.py: the makespan on 1 to 4 servers."""
    slots, ms = 4, 100.0
    counts = {1: 600, 2: 2000, 3: 1200, 4: 2000}  # calls; 2 and 4 servers have goals
    figures, ratios = {}, []
    for servers, full in counts.items():
        calls = full // 25 if quick else full
        found = time_calls(servers, slots, calls, ms)
        seconds, raw_s = found.ours[0].wall_s, found.raw[0].wall_s
        ideal_s = calls * ms / 1e3 / (servers * slots)
        ratios.append(seconds / ideal_s)
        figures[f"servers {servers}"] = Figure(
            value=seconds / ideal_s,
            unit="x",
            conditions=f"{calls:,} calls of {ms:g} ms, {slots} slots a server; raw httpx took "
            f"{raw_s / ideal_s:.3f} times the ideal",
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
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    os.environ["URISK_JOURNAL"] = "off"
    found = time_calls(args.servers, args.slots, args.calls, args.ms, args.rounds)
    ideal_s = args.calls * args.ms / 1e3 / (args.servers * args.slots)
    print(f"{args.calls} calls of {args.ms:g} ms, {args.servers} servers of {args.slots} slots:")
    print(f"ideal      {ideal_s:.2f} s; calls of each server in the last run: {found.asked}")
    print(describe("urisk_nb", found.ours, ideal_s, args.calls))
    print(describe("raw httpx", found.raw, ideal_s, args.calls))


if __name__ == "__main__":
    main()
