"""
Measure the choice of sentences and the alerts: python benchmarks/filings.py --data DIR

DIR has `filings/NAME.txt.gz` and `decisive.csv` (columns file, text, why). The same may stand in
`distress/`. Prints Markdown: how many of the listed statements, and of the facts (a file and what
stands in `why` before the colon), are within the first 20, 40 and 60 chosen; what is asked and
which alerts each filing has; seconds on this machine. No model is asked.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from urisk_nb.readers.news import read_evidence
from urisk_nb.risk.choice import choose_passages, find_alerts
from urisk_nb.risk.evidence import Sentence, split
from urisk_nb.risk.families import load_families
from urisk_nb.risk.passages import read_passages

LIMITS = (20, 40, 60)
MIN_CHARS = 30  # a shorter sentence that stands inside of a statement does not find it


def read_sentences(path: Path, folder: Path) -> list[Sentence]:
    """Return the sentences of a filing, read as the product reads a file of a user."""
    plain = folder / path.name.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    documents = read_evidence(str(plain)).documents
    return [sentence for document in documents for sentence in split(document).sentences]


def read_statements(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return for each file its statements, as letters and digits alone, with their group."""
    found = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["file"]].append((fold(row["text"]), row["why"].partition(":")[0].strip()))
    return found


def fold(text: str) -> str:
    """Return the letters and digits of a text: white space and lost signs do not count."""
    return re.sub(r"\W+", "", text.lower())


def is_found(statement: str, chosen: list[str]) -> bool:
    """Tell whether a statement is in a chosen sentence, or a chosen sentence in it."""
    return any(statement in one or (len(one) > MIN_CHARS and one in statement) for one in chosen)


def measure_set(title: str, paths: list[Path], statements: Path) -> None:
    """Print the tables of one set of filings."""
    listed, families = read_statements(statements), load_families()
    found: Counter[tuple[str, int]] = Counter()
    totals: Counter[str] = Counter()
    rows = []
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            sentences = read_sentences(path, Path(folder))
        began = time.perf_counter()
        passages = read_passages(sentences, families)
        chosen = choose_passages(passages)
        alerts = Counter(one.family.name for one in find_alerts(passages) if one.family)
        seconds = time.perf_counter() - began
        names = ", ".join(f"{name} {count}" for name, count in alerts.items()) or "none"
        kind = "listed" if path.name in listed else "other"
        name = path.name.partition(".")[0]
        rows.append(
            f"| {name} | {kind} | {len(sentences):,} | {len(chosen)} | {names} | {seconds:.2f} |"
        )
        texts = [fold(one.sentence.text) for one in chosen]
        for limit in LIMITS:
            facts: dict[str, bool] = {}
            for statement, group in listed.get(path.name, ()):
                hit = is_found(statement, texts[:limit])
                found["statements", limit] += hit
                facts[group] = facts.get(group, False) or hit
            found["facts", limit] += sum(facts.values())
        totals["statements"] += len(listed.get(path.name, ()))
        totals["facts"] += len({group for _, group in listed.get(path.name, ())})
    print(f"\n### {title}\n\n| found within | 20 | 40 | 60 |\n|---|--:|--:|--:|")
    for kind, total in totals.items():
        cells = " | ".join(f"{found[kind, limit] / max(total, 1):.0%}" for limit in LIMITS)
        print(f"| {kind} ({total}) | {cells} |")
    print("\n| filing | statements | sentences | asked | alerts | seconds |")
    print("|---|---|--:|--:|---|--:|", *rows, sep="\n")


def main() -> None:
    """Read the arguments, and print the tables of each set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with decisive.csv")
    folder = parser.parse_args().data
    measure_set("Filings", sorted(folder.glob("filings/*.txt.gz")), folder / "decisive.csv")
    more = folder / "distress"
    if (more / "decisive.csv").exists():
        measure_set("Distress", sorted(more.glob("*.txt.gz")), more / "decisive.csv")


if __name__ == "__main__":
    main()
