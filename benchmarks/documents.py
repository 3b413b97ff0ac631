"""
Measure how a run grows with its documents: python benchmarks/documents.py [--notes 10000]

A scripted server (another process) labels short notes in a fixed time each, so the ideal is known.
Annual reports are read and their sentences chosen, without a model. A server that answers at once
shows the highest call rate of client and server on one machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the server of the tests

from flaky_server import FlakyServer
from records import Curve, Figure, Measured
from urisk_nb import LLMManager, process_state
from urisk_nb.reading.packed_cache import NAME as READ_BEFORE
from urisk_nb.session import label_sync, open_run
from written import write_notes, write_report

SERVICE_S, SLOTS = 0.03, 8


def time_notes(counts: Sequence[int], service_s: float) -> list[float]:
    """Return the seconds of a run of each number of notes, from the list to the table."""
    with tempfile.TemporaryDirectory() as folder:
        server = FlakyServer(folder, service_s=service_s, slots=SLOTS)
        try:
            manager = LLMManager.initialize_sync(url=server.url, parallel=SLOTS)
            label_notes(manager, SLOTS)  # imports, connections
            found = [label_notes(manager, count) for count in counts]
            manager.shutdown_sync()
            return found
        finally:
            server.kill()


def label_notes(manager: LLMManager, count: int) -> float:
    notes = write_notes(count)
    began_s = time.perf_counter()
    run = open_run(list(dict.fromkeys(one["ticker"] for one in notes)), evidence=notes)
    label_sync(run, manager)
    judged = int(run.table()["judged"].sum())
    if judged != count:
        raise SystemExit(f"{count} notes, {judged} labels")
    return time.perf_counter() - began_s


def time_reports(counts: Sequence[int], sentences: int) -> list[float]:
    """Return the seconds that each number of annual reports takes, up to the first question."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(max(counts)):
            path = Path(folder, f"T{number}_10-K_2024-02-20.txt")
            path.write_text(write_report(sentences, number), encoding="utf-8")
        paths = [Path(folder, f"T{number}_10-K_2024-02-20.txt") for number in range(max(counts))]
        read_reports(paths[:1])
        return [read_reports(paths[:count]) for count in counts]


def read_reports(paths: Sequence[Path]) -> float:
    process_state.forget(READ_BEFORE)  # else those of a smaller number are known
    began_s = time.perf_counter()
    symbols = [path.name.partition("_")[0] for path in paths]
    evidence = dict(zip(symbols, paths, strict=True))
    open_run(symbols, evidence=evidence, params={"labels": "calibrated"})
    return time.perf_counter() - began_s


def measure_documents(*, quick: bool) -> Measured:
    """The group `documents` of benchmarks/performance.py."""
    notes = (1, 10, 100) if quick else (1, 10, 100, 1_000, 10_000)
    reports, sentences = ((1, 2), 200) if quick else ((1, 2, 4, 8, 16), 2_000)
    most = 200 if quick else 2_000
    (at_once_s,) = time_notes([most], 0.0)
    return Measured(
        figures={
            "call rate": Figure(
                value=most / at_once_s,
                unit="calls a second",
                conditions=f"{most:,} notes, a scripted server on the same machine answers at once",
            )
        },
        curves={
            "notes": Curve(
                x=notes,
                y=time_notes(notes, SERVICE_S),
                ideal=[SERVICE_S * max(1, count / SLOTS) for count in notes],
                conditions=f"a scripted judge: {1e3 * SERVICE_S:g} ms a note, {SLOTS} at once",
            ),
            "reports": Curve(
                x=reports,
                y=time_reports(reports, sentences),
                conditions=f"{sentences:,} sentences each, no model",
            ),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--notes", type=int, default=10_000)
    args = parser.parse_args()
    # A run asks for what it measures, and leaves nothing behind
    os.environ["URISK_JOURNAL"] = "off"
    (seconds,) = time_notes([args.notes], SERVICE_S)
    print(f"{args.notes:,} notes: {seconds:.2f} s, ideal {SERVICE_S * args.notes / SLOTS:.2f} s")
    counts = (1, 4, 16)
    for count, cpu_s in zip(counts, time_reports(counts, 2_000), strict=True):
        print(f"{count} reports of 2,000 sentences: {cpu_s:.2f} s")


if __name__ == "__main__":
    main()
