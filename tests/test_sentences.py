"""
The labeled sentences: allowed labels, spread evenly, said once, about nobody who exists, and none
of them known from the evaluation.
"""

import csv
import re
from collections import Counter

import pytest

from harness import ROOT
from urisk_nb.risk.evaluation import read_labels
from urisk_nb.risk.taxonomy import DEFAULT

FILES = sorted((ROOT / "training/sentences").glob("*.csv"))
SOURCES = {
    *("annual_report", "risk_factor", "earnings_call", "newswire", "analyst_note"),
    *("regulator", "court", "exchange", "local_press", "rating_agency"),
}
HELD_OUT = re.compile(
    r"\b(Google|Alphabet|GOOG|Apple|AAPL|Amazon|AMZN|Facebook|Meta|Netflix|NFLX|Microsoft|MSFT|GitHub"
    r"|Cambridge Analytica)\b"
)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ROWS = [row for path in FILES for row in rows_of(path)]


def runs(text, words=7):
    """Every run of so many words, lower case."""
    confidence = re.findall(r"[\w']+", text.lower())
    return {
        tuple(confidence[start : start + words]) for start in range(len(confidence) - words + 1)
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_is_in_form(path):
    """
    Labels as the table has them, known kinds of source, a company for every sentence, 6 to 45
    words.
    """
    rows = rows_of(path)
    assert list(rows[0]) == [
        "text",
        "risk",
        "severity",
        "severity_min",
        "severity_max",
        "company",
        "source",
    ]
    assert len(read_labels(rows)) == len(rows) >= 280
    assert {row["source"] for row in rows} <= SOURCES
    assert all(row["company"].strip() for row in rows)
    assert all(
        {row[name] for name in ("severity", "severity_min", "severity_max")} == {"0"}
        for row in rows
        if row["risk"] == "none"
    )
    assert all(row["severity_min"] <= row["severity"] <= row["severity_max"] for row in rows)
    assert all(6 <= len(row["text"].split()) <= 45 for row in rows)


def test_the_labels_are_spread():
    """
    No risk is rarer than a tenth of all, nor more frequent than an eighth and a half; each severity
    of each risk occurs.
    """
    risks = Counter(row["risk"] for row in ROWS)
    assert set(risks) == set(DEFAULT.labels)
    assert min(risks.values()) > 0.1 * len(ROWS)
    assert max(risks.values()) < 0.15 * len(ROWS)
    both = Counter((row["risk"], row["severity"]) for row in ROWS if row["risk"] != "none")
    assert len(both) == 6 * len(DEFAULT.ids)


def test_no_sentence_is_said_twice():
    """No two share a run of seven words, which is what a template leaves."""
    seen = Counter(run for row in ROWS for run in runs(row["text"]))
    assert [run for run, count in seen.items() if count > 1] == []


def test_what_is_measured_is_not_learnt():
    """
    Nothing of the sixteen events, of their companies, nor of the sentences that prompts were chosen
    on.
    """
    known = [row["text"] for row in rows_of(ROOT / "urisk_nb/data/evidence_2018_2019.csv")]
    known += [row["text"] for row in rows_of(ROOT / "benchmarks/dev_sentences.csv")]
    theirs = {run for text in known for run in runs(text)}
    assert not [row["text"] for row in ROWS if runs(row["text"]) & theirs]
    assert not [row["text"] for row in ROWS if HELD_OUT.search(row["text"])]


def test_companies_are_spread_over_risks():
    """
    Two to eight sentences each, of several risks: a fold that leaves a company out leaves no risk
    out with it.
    """
    by = {}
    for row in ROWS:
        by.setdefault(row["company"], []).append(row["risk"])
    assert all(2 <= len(risks) <= 8 and len(set(risks)) >= 2 for risks in by.values())
