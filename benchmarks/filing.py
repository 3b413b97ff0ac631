"""
Measure an annual report with real weights: python benchmarks/filing.py [--sentences 2000]

A report of that many sentences (benchmarks/written.py) is read, its sentences are chosen, and
urisk-judge in the embedded engine labels them. Then the same report again, with answers from the
journal. Needs the demo model: `urisk fetch-model`.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # a free port, as the tests take one

from harness import free_port
from records import Figure, Measured, Skipped
from urisk_nb import LLMManager
from urisk_nb.errors import UriskError
from urisk_nb.session import label_sync, open_run
from written import write_report

TICKER = "NWK"


@contextlib.contextmanager
def open_judge() -> Iterator[LLMManager]:
    """A session with the embedded engine. Raises Skipped where the weights are not there."""
    try:
        manager = LLMManager.initialize_sync(
            engine="embedded", url=f"http://127.0.0.1:{free_port()}"
        )
    except UriskError as exc:
        raise Skipped(f"{exc} {exc.fix or ''}".strip()) from exc
    try:
        yield manager
    finally:
        manager.shutdown_sync()


def label_report(path: Path, manager: LLMManager) -> tuple[float, int, float]:
    """Return the seconds from the file to the row, the sentences asked, and seconds of these."""
    began_s, before = time.perf_counter(), len(manager.calls.records)
    run = open_run([TICKER], evidence=path)
    read_s = time.perf_counter()
    label_sync(run, manager)
    asked_s = time.perf_counter() - read_s
    run.table()
    return time.perf_counter() - began_s, len(manager.calls.records) - before, asked_s


def time_report(sentences: int) -> list[tuple[float, int, float]]:
    """Return `label_report` of a report that is new, and of the same once more."""
    with tempfile.TemporaryDirectory() as folder, open_judge() as manager:
        os.environ["URISK_JOURNAL"] = str(Path(folder, "journal.sqlite3"))
        path = Path(folder, f"{TICKER}_10-K_2024-02-20.txt")
        path.write_text(write_report(sentences), encoding="utf-8")
        return [label_report(path, manager), label_report(path, manager)]


def measure_filing(*, quick: bool) -> Measured:
    """The group `filing` of benchmarks/performance.py."""
    sentences = 200 if quick else 2_000
    first, again = time_report(sentences)
    what = f"an annual report of {sentences:,} sentences, urisk-judge in the embedded engine"
    total_s, asked, asked_s = first
    return Measured(
        figures={
            "filing": Figure(value=total_s, unit="s", conditions=what),
            "filing asked": Figure(value=asked, unit="sentences", conditions=what),
            "filing again": Figure(value=again[0], unit="s", conditions=what),
            "filing again asked": Figure(value=again[1], unit="sentences", conditions=what),
            "judge rate": Figure(
                value=asked / asked_s,
                unit="sentences a second",
                conditions="one slot, first run",
            ),
            "filings per hour": Figure(
                value=3600 / total_s, unit="filings an hour", conditions=what
            ),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=2_000)
    args = parser.parse_args()
    for name, (total_s, asked, _) in zip(
        ("first", "again"), time_report(args.sentences), strict=True
    ):
        print(f"{name}: {total_s:.2f} s to the row, {asked} sentences asked")


if __name__ == "__main__":
    main()
