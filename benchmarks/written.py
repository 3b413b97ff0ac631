"""
Generate documents for measurements: annual reports and short notes.

They consist of the sentences that were written to train urisk-judge (training/sentences). Length
and kinds of the sentences are those of filings; companies and figures are invented.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from functools import cache
from pathlib import Path

SENTENCES = Path(__file__).parents[1] / "training" / "sentences"
SHARES = {"routine": 0.75, "hypothetical": 0.19, "other": 0.04, "event": 0.02}
ITEMS = {
    "Item 1. Business": ("routine", 0.5),
    "Item 1A. Risk Factors": ("hypothetical", 1.0),
    "Item 7. Management's Discussion and Analysis of Financial Condition": ("event", 1.0),
    "Item 8. Financial Statements and Supplementary Data": ("routine", 1.0),
    "Item 9B. Other Information": ("other", 1.0),
}
COVER = """UNITED STATES SECURITIES AND EXCHANGE COMMISSION
Washington, D.C. 20549
FORM 10-K
For the fiscal year ended December 31, 2023
NORWICK TOOLS INC.
"""
PARAGRAPH = 5  # sentences


@cache
def read_written() -> dict[str, list[str]]:
    """Return the sentences that were written as those of annual reports, by their kind."""
    found = defaultdict(list)
    for path in sorted(SENTENCES.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["source"] == "10-K" and row.get("kind") in SHARES:
                    found[row["kind"]].append(row["text"])
    return found


def write_report(sentences: int, seed: int = 1) -> str:
    """Return the text of an annual report of so many sentences."""
    draw, written = random.Random(seed), read_written()
    left = {
        kind: draw.sample(written[kind], round(share * sentences)) for kind, share in SHARES.items()
    }
    parts = [COVER]
    for head, (kind, share) in ITEMS.items():
        count = round(share * len(left[kind]))
        some, left[kind] = left[kind][:count], left[kind][count:]
        paragraphs = (" ".join(some[at : at + PARAGRAPH]) for at in range(0, count, PARAGRAPH))
        parts += [head, *paragraphs]
    return "\n\n".join(parts)


def write_notes(count: int) -> list[dict[str, str]]:
    """Return short notes, ten a company; no two are equal."""
    return [
        {
            "ticker": f"T{number // 10}",
            "text": f"Regulator {number % 7} fined the company {number + 2} thousand dollars.",
        }
        for number in range(count)
    ]
