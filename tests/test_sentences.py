"""
The labeled sentences: allowed labels, said once, about nobody who exists, none of them known from
the evaluation, and none taken from a real document.
"""

import csv
import gzip
import re
from collections import Counter

import pytest

from harness import ROOT
from urisk_nb.risk.evaluation import read_labels
from urisk_nb.risk.taxonomy import DEFAULT

# Written in the manner of documents, in their mix; the others in equal numbers of each label.
DOCUMENTS = {
    *("routine_prose", "business_and_results", "risk_factors_and_suits", "distress_and_neighbors"),
    *("headlines_calls_small", "draws_finance", "draws_industry"),
    *("general_exposures", "wire_headlines"),
    *("laws_and_taxes", "competition_and_people", "results_and_funding"),
}
FILES = sorted((ROOT / "training/sentences").glob("*.csv"))
EVEN = [path for path in FILES if path.stem not in DOCUMENTS]
LIKE_DOCUMENTS = [path for path in FILES if path.stem in DOCUMENTS]
REAL = ROOT.parent / "shared/data/filings"
COLUMNS = ["text", "risk", "severity", "severity_min", "severity_max"]
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
EVEN_ROWS = [row for path in EVEN for row in rows_of(path)]
MIXED_ROWS = [row for path in LIKE_DOCUMENTS for row in rows_of(path)]


def runs(text, words=7):
    """Every run of so many words, lower case."""
    confidence = re.findall(r"[\w']+", text.lower())
    return {
        tuple(confidence[start : start + words]) for start in range(len(confidence) - words + 1)
    }


@pytest.mark.parametrize("path", EVEN, ids=lambda path: path.stem)
def test_each_even_file_is_in_form(path):
    """
    Labels as the table has them, known kinds of source, a company for every sentence, 6 to 45
    words.
    """
    rows = rows_of(path)
    assert list(rows[0]) == [*COLUMNS, "company", "source"]
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


@pytest.mark.parametrize("path", LIKE_DOCUMENTS, ids=lambda path: path.stem)
def test_each_file_like_documents_is_in_form(path):
    """
    Labels as the table has them, with what a second reader said among those that are accepted; the
    company's name as it stands in the text; 2 to 75 words.
    """
    rows = rows_of(path)
    assert list(rows[0]) == [*COLUMNS, "kind", "company", "source"]
    assert len(read_labels(rows)) == len(rows) >= 420
    assert {row["source"] for row in rows} <= {
        *("10-K", "10-Q", "8-K", "call", "headline", "news", "note", "release")
    }
    assert {row["kind"] for row in rows} <= {"event", "hypothetical", "routine", "other"}
    assert all(row["company"] in row["text"] for row in rows)
    assert all(
        row["severity_min"] == row["severity"] == "0"
        for row in rows
        if row["risk"].startswith("none")
    )
    assert all(row["severity_min"] <= row["severity"] <= row["severity_max"] for row in rows)
    assert all(2 <= len(row["text"].split()) <= 75 for row in rows)


def test_the_mix_is_that_of_documents():
    """
    More than half of the sentences are about no risk, and one in ten of the others, at least, could
    happen rather than did; each severity of each risk occurs.
    """
    risks = Counter(row["risk"].split("|")[0] for row in MIXED_ROWS)
    assert 0.5 < risks["none"] / len(MIXED_ROWS) < 0.7
    assert min(risks.values()) > 250
    about = [row for row in MIXED_ROWS if not row["risk"].startswith("none")]
    assert sum(row["kind"] == "hypothetical" for row in about) > 0.1 * len(about)
    assert {row["severity"] for row in about} == set("012345")


def test_the_labels_are_spread():
    """
    In the even files no risk is rarer than a tenth of all, nor more frequent than an eighth and a
    half; each severity of each risk occurs.
    """
    risks = Counter(row["risk"] for row in EVEN_ROWS)
    assert set(risks) == set(DEFAULT.labels)
    assert min(risks.values()) > 0.1 * len(EVEN_ROWS)
    assert max(risks.values()) < 0.15 * len(EVEN_ROWS)
    both = Counter((row["risk"], row["severity"]) for row in EVEN_ROWS if row["risk"] != "none")
    assert len(both) == 6 * len(DEFAULT.ids)


def test_no_sentence_is_said_twice():
    """
    No two share a run of seven words, which is what a template leaves. Those in the manner of
    documents repeat phrases of law, as documents do, and no two are the same.
    """
    seen = Counter(run for row in EVEN_ROWS for run in runs(row["text"]))
    assert [run for run, count in seen.items() if count > 1] == []
    texts = Counter(" ".join(re.findall(r"\w+", row["text"].lower())) for row in ROWS)
    assert [text for text, count in texts.items() if count > 1] == []


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real documents are not here")
def test_nothing_is_taken_from_a_real_document():
    """No run of twelve words as in a real document, but for the auditors' phrase."""
    runs_of = {}
    for row in MIXED_ROWS:
        if "going concern" not in row["text"].lower():
            for run in runs(row["text"], 12):
                runs_of.setdefault(run, row["text"])
    paths = [*REAL.glob("*/*.txt.gz"), *REAL.glob("calls/*"), *REAL.glob("news/*")]
    assert paths
    for path in paths:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            assert not [runs_of[run] for run in runs(file.read(), 12) & runs_of.keys()]


def test_what_is_measured_is_not_learnt():
    """
    Nothing of the sixteen events, of their companies, nor of the sentences that prompts were chosen
    on.
    """
    known = [row["text"] for row in rows_of(ROOT / "urisk_nb/data/evidence_2018_2019.csv")]
    known += [row["text"] for row in rows_of(ROOT / "benchmarks/dev_sentences.csv")]
    theirs = {run for text in known for run in runs(text) if "going" not in run}  # a legal phrase
    assert not [row["text"] for row in ROWS if runs(row["text"]) & theirs]
    assert not [row["text"] for row in ROWS if HELD_OUT.search(row["text"])]


def test_companies_are_spread_over_risks():
    """
    Two to eight sentences each, of several risks: a fold that leaves a company out leaves no risk
    out with it.
    """
    by = {}
    for row in EVEN_ROWS:
        by.setdefault(row["company"], []).append(row["risk"])
    assert all(2 <= len(risks) <= 8 and len(set(risks)) >= 2 for risks in by.values())
