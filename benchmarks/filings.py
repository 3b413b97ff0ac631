"""
Measure the choice of sentences, the alerts and the score: python benchmarks/filings.py --data DIR

DIR has `filings/NAME.txt.gz`, `decisive.csv` (columns file, text, why) and `MANIFEST.csv` (columns
file, distressed: yes, mild or no, note). `distress/` may have the same. Prints Markdown: how many
of the listed statements, and of the facts (a file and the part of `why` before the colon), are
among the first 20, 40 and 60 chosen; what is asked and which alerts each filing has; and the
seconds.

Then each filing's score and level, and how often a distressed filing stands above a healthy one. By
default no model is used: an *eager* reading gives each event its family's cap and each hypothetical
a 3, so the table shows the effect of the rules alone. With --judge, the embedded urisk-judge
labels, too, which takes minutes; --cache keeps its answers, so that a second run is fast.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from urisk_nb.embedded.weights import ADAPTER_SHA256
from urisk_nb.llm.manager import LLMManager
from urisk_nb.readers.news import read_evidence
from urisk_nb.risk.calibration import Token
from urisk_nb.risk.choice import choose_passages, find_alerts
from urisk_nb.risk.evidence import Sentence, split
from urisk_nb.risk.families import load_families
from urisk_nb.risk.inputs import Document, Holding
from urisk_nb.risk.labeling import TickerFindings, label_ticker
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.passages import Passage, read_passages
from urisk_nb.risk.plan import Plan, prepare
from urisk_nb.risk.questions import Question, Reply, answer
from urisk_nb.risk.scoring import score
from urisk_nb.session import to_reply
from urisk_nb.table.risk_table import RiskTable, assemble

LIMITS = (20, 40, 60)
TICKER = "AAA"
MIN_CHARS = 30  # a shorter sentence that stands inside of a statement does not find it
ORDER = ("NR", "Low", "Moderate", "Elevated", "High", "Severe")
CACHE = Path.home() / ".cache" / "urisk-nb-benchmarks" / "answers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filing:
    """One filing, and what is known of its company: ``yes``, ``mild`` or ``no`` distress."""

    name: str
    file: str
    document: Document
    sentences: tuple[Sentence, ...]
    distress: str


def read_filings(folder: Path, manifest: Path) -> list[Filing]:
    """Return the filings of a folder, read as urisk_nb reads a user's file."""
    known = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            is_mild = row["distressed"] == "mild" or row["note"].startswith("mild")
            known[row["file"].rpartition("/")[2]] = "mild" if is_mild else row["distressed"]
    found = []
    for path in sorted(folder.glob("*.txt.gz")):
        with tempfile.TemporaryDirectory() as place:
            plain = Path(place) / path.name.removesuffix(".gz")
            plain.write_bytes(gzip.decompress(path.read_bytes()))
            (document,) = read_evidence(str(plain)).documents
        document = replace(document, ticker=TICKER)
        found.append(
            Filing(
                name=path.name.partition(".")[0],
                file=path.name,
                document=document,
                sentences=split(document).sentences,
                distress=known.get(path.name, "no"),
            )
        )
    return found


# Choice and alerts --------------------------------------------------------------------------------


def read_statements(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return for each file its statements, as letters and digits alone, with their group."""
    found = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["file"]].append((fold(row["text"]), row["why"].partition(":")[0].strip()))
    return found


def fold(text: str) -> str:
    """Return the letters and digits of a text, without white space and punctuation."""
    return re.sub(r"\W+", "", text.lower())


def is_found(statement: str, chosen: list[str]) -> bool:
    """Return whether a chosen sentence contains a statement, or the reverse."""
    return any(statement in one or (len(one) > MIN_CHARS and one in statement) for one in chosen)


def measure_choice(title: str, filings: list[Filing], statements: Path) -> None:
    """Print the tables of one set of filings."""
    listed, families = read_statements(statements), load_families()
    found: Counter[tuple[str, int]] = Counter()
    totals: Counter[str] = Counter()
    rows = []
    for filing in filings:
        began = time.perf_counter()
        passages = read_passages(filing.sentences, families)
        chosen = choose_passages(passages)
        alerts = Counter(one.family.name for one in find_alerts(passages) if one.family)
        seconds = time.perf_counter() - began
        names = ", ".join(f"{name} {count}" for name, count in alerts.items()) or "none"
        kind = "listed" if filing.file in listed else "other"
        rows.append(
            f"| {filing.name} | {kind} | {len(passages):,} | {len(chosen)} | {names} "
            f"| {seconds:.2f} |"
        )
        texts = [fold(one.sentence.text) for one in chosen]
        for limit in LIMITS:
            facts: dict[str, bool] = {}
            for statement, group in listed.get(filing.file, ()):
                hit = is_found(statement, texts[:limit])
                found["statements", limit] += hit
                facts[group] = facts.get(group, False) or hit
            found["facts", limit] += sum(facts.values())
        totals["statements"] += len(listed.get(filing.file, ()))
        totals["facts"] += len({group for _, group in listed.get(filing.file, ())})
    print(f"\n### {title}\n\n| found within | 20 | 40 | 60 |\n|---|--:|--:|--:|")
    for kind, total in totals.items():
        cells = " | ".join(f"{found[kind, limit] / max(total, 1):.0%}" for limit in LIMITS)
        print(f"| {kind} ({total}) | {cells} |")
    print("\n| filing | statements | sentences | asked | alerts | seconds |")
    print("|---|---|--:|--:|---|--:|", *rows, sep="\n")


# Scores -------------------------------------------------------------------------------------------


def read_eagerly(plan: Plan) -> Callable[[Question], Reply]:
    """Answer each question by the words: the cap of an event's family, 3 for a hypothetical."""
    selection = plan.selections[TICKER]
    read: Mapping[str, Passage] = {one.sentence.id: one for one in selection.passages}

    def ask(question: Question) -> Reply:
        passage = read[question.sentence.id]
        family = passage.family
        if family is None or passage.kind == "routine":
            return Reply(text=answer("none", 0), done_reason="stop")
        severity = family.cap if passage.kind == "event" else 3
        return Reply(text=answer(family.category, severity), done_reason="stop")

    return ask


class Judge:
    """The embedded urisk-judge, whose answers are kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.manager: LLMManager | None = None

    def ask(self, question: Question) -> Reply:
        """Return the cached answer, else the judge's."""
        key = f"{ADAPTER_SHA256[:12]} {question.key}"  # another judge is asked again
        if key not in self.known:
            if self.manager is None:
                self.manager = LLMManager.initialize_sync(engine="embedded")
            reply = to_reply(self.manager.ask_sync(question, self.manager.judge))
            self.known[key] = asdict(replace(reply, seconds=0.0))
        stored = self.known[key]
        tokens = tuple(
            Token(**{**one, "top_logprobs": tuple(map(tuple, one["top_logprobs"]))})
            for one in stored["logprobs"]
        )
        return Reply(**{**stored, "logprobs": tokens})

    def save(self) -> None:
        """Save the answers."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.known), encoding="utf-8")

    def close(self) -> None:
        """Save the answers, and stop the server."""
        self.save()
        if self.manager is not None:
            self.manager.shutdown_sync()


def label(plan: Plan, ask: Callable[[Question], Reply]) -> tuple[TickerFindings, RiskTable]:
    """Return the findings and the table of a filing whose questions are answered by `ask`."""

    async def reply(question: Question) -> Reply:
        return ask(question)

    findings = asyncio.run(label_ticker(plan, TICKER, reply))
    return findings, assemble(plan, {TICKER: findings}, run_id="benchmark")


def score_plainly(findings: TickerFindings) -> tuple[float, str]:
    """Return score and level without a rule: score_v1 of the highest severity of each category."""
    ratings: dict[str, int | None] = {}
    for one in findings.findings:
        if one.label is not None and one.label.risk != "none":
            ratings[one.label.risk] = max(one.label.severity, ratings.get(one.label.risk) or 0)
    result = score(ratings, judged=True)
    return result.score or 0.0, str(result.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one filing: a score and its level without and with the rules, and its row."""

    filing: Filing
    plain: tuple[float, str]
    ruled: tuple[float, str]
    row: Mapping[str, Any]


def measure_scores(filing: Filing, judge: Judge | None) -> Outcome:
    """Return what a filing is scored, labeled by the judge or by the eager reading."""
    plan = prepare(
        [Holding(symbol=TICKER)], None, [filing.document], RiskParams.of(labels="calibrated")
    )
    if judge is None:
        findings, table = label(plan, read_eagerly(plan))
    else:
        plan = replace(plan, form="decision", is_judge=True)
        findings, table = label(plan, judge.ask)
        judge.save()
    row = table.loc[TICKER]
    points = 0.0 if row["level"] == "NR" else float(row["score"])
    return Outcome(
        filing=filing,
        plain=score_plainly(findings),
        ruled=(points, str(row["level"])),
        row=row.to_dict(),
    )


def print_scores(labeler: str, sets: Mapping[str, list[Outcome]]) -> None:
    """Print how well the scores order the filings of each set, and each filing's score."""
    print(f"\n### Scores: {labeler}\n\n| | pairs in order (95 %) | healthy above Moderate ", end="")
    print("| healthy Severe | distressed High or Severe |\n|---|--:|--:|--:|--:|")
    every = [one for outcomes in sets.values() for one in outcomes]
    for title, outcomes in {**sets, "All": every}.items():
        print(f"| {title}, no rules | {summarize([(x.filing, x.plain) for x in outcomes])} |")
        print(f"| {title}, rules | {summarize([(x.filing, x.ruled) for x in outcomes])} |")
    print("\n| filing | distress | alerts | score_v1, no rules | score_v2 | to review | top risk |")
    print("|---|---|---|---|---|--:|---|")
    for one in every:
        row, rule = one.row, one.row["top_rule"]
        top = f"{row['top_risk']}: {rule}" if isinstance(rule, str) else row["top_risk"]
        (plain, plain_level), (ruled, level) = one.plain, one.ruled
        print(
            f"| {one.filing.name} | {one.filing.distress} | {row['alerts'] or 'none'} "
            f"| {plain:.1f} {plain_level} | {ruled:.1f} {level} | {row['to_review']} | {top} |"
        )


def summarize(scored: list[tuple[Filing, tuple[float, str]]]) -> str:
    """Return the figures of a set as cells; mild filings are in none."""
    bad = [one for filing, one in scored if filing.distress == "yes"]
    good = [one for filing, one in scored if filing.distress == "no"]
    share, low, high = compare([points for points, _ in bad], [points for points, _ in good])
    above = sum(ORDER.index(level) > ORDER.index("Moderate") for _, level in good)
    severe = sum(level == "Severe" for _, level in good)
    found = sum(level in ("High", "Severe") for _, level in bad)
    return (
        f"{share:.0%} ({low:.0%} to {high:.0%}) of {len(bad) * len(good)} "
        f"| {above} of {len(good)} | {severe} | {found} of {len(bad)}"
    )


def compare(bad: list[float], good: list[float]) -> tuple[float, float, float]:
    """
    Return the share of pairs in which the distressed filing has the higher score, ties as half.

    With a 95 % interval: filings of both kinds are drawn again 2,000 times.
    """
    draw = random.Random(1)

    def share(first: list[float], second: list[float]) -> float:
        won = sum((one > two) + 0.5 * (one == two) for one in first for two in second)
        return won / max(len(first) * len(second), 1)

    again = sorted(
        share(draw.choices(bad, k=len(bad)), draw.choices(good, k=len(good))) for _ in range(2000)
    )
    return share(bad, good), again[49], again[1949]


def main() -> None:
    """Read the arguments, and print the tables of each set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with decisive.csv")
    parser.add_argument("--judge", action="store_true", help="let urisk-judge label, too")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"its answers ({CACHE})")
    given = parser.parse_args()
    folder, more = given.data, given.data / "distress"
    sets = {"Filings": read_filings(folder / "filings", folder / "MANIFEST.csv")}
    measure_choice("Filings", sets["Filings"], folder / "decisive.csv")
    if (more / "decisive.csv").exists():
        sets["Distress"] = read_filings(more, more / "MANIFEST.csv")
        measure_choice("Distress", sets["Distress"], more / "decisive.csv")
    print_scores("the eager reading", measure_sets(sets, None))
    if given.judge:
        judge = Judge(given.cache)
        try:
            print_scores("urisk-judge", measure_sets(sets, judge))
        finally:
            judge.close()


def measure_sets(sets: Mapping[str, list[Filing]], judge: Judge | None) -> dict[str, list[Outcome]]:
    """Return what came of each filing of each set."""
    return {
        title: [measure_scores(one, judge) for one in filings] for title, filings in sets.items()
    }


if __name__ == "__main__":
    main()
