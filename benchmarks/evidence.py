"""
The group `many` of benchmarks/performance.py: a folder of many annual reports, read for one run.

benchmarks/many.py does the work, and prints more figures.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # many_filings, as `many` has it

from records import Figure, Measured, Skipped


def measure_many(*, quick: bool) -> Measured:
    """Read many reports and choose their sentences, without a model."""
    if importlib.util.find_spec("many") is None:
        raise Skipped("benchmarks/many.py does not exist")
    import many

    filings, sentences = (6, 200) if quick else (100, 2_000)
    args = argparse.Namespace(filings=filings, no_ask=True)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "filings")
        many.write_folder(folder, [f"T{number:04}" for number in range(filings)], sentences)
        found = many.measure(args, folder, {"URISK_JOURNAL": str(Path(root, "journal.sqlite3"))})
    conditions = f"{filings:,} annual reports of {sentences:,} sentences, no model"
    return Measured(
        figures={
            "many rate": Figure(
                value=filings / found["reading"],
                unit="annual reports a second",
                conditions=conditions,
            ),
            "many memory": Figure(
                value=found["mb"] + found["mb_workers"],
                unit="MB",
                conditions=f"{conditions}; {found['workers']:.0f} workers included",
            ),
            "many pause": Figure(value=found["quiet_reading"], unit="s", conditions=conditions),
        }
    )
