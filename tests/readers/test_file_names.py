"""A name says whom a file is about; a common word is never taken for a ticker."""

from __future__ import annotations

from datetime import date

import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.file_names import find_named_day, find_owners, guess_ticker, is_edgar_name
from urisk_nb.readers.news import read_evidence

CELL = ("NVDA", "MSFT", "BRK.B", "K", "A", "ALL", "F", "KEY", "0700.HK", "EUR_USD")


@pytest.mark.parametrize(
    ("places", "owners"),
    [
        (["NVDA_10K_2025"], ["NVDA"]),
        (["nvda-10-k-2025-02-26"], ["NVDA"]),
        (["10k", "2025", "NVDA"], ["NVDA"]),
        (["10-K", "msft"], ["MSFT"]),
        (["BRK.B_10-K"], ["BRK.B"]),
        (["brk-b 10-K"], ["BRK.B"]),
        (["BRKB_10-K"], ["BRK.B"]),
        (["0700.HK_note"], ["0700.HK"]),
        (["EUR_USD_view"], ["EUR_USD"]),
        (["2025-02-26 NVDA memo"], ["NVDA"]),
        (["NVDA"], ["NVDA"]),
        (["*"], ["*"]),
        # a word of a name is no ticker, even where the cell has it
        (["all_news", "filings"], []),
        (["a_note"], []),
        (["note_10-K"], []),
        (["final"], []),
        (["ENVDAX"], []),
        (["nvdax_10k"], []),
        # nor is a word or a letter of a phrase
        (["A fire at a plant"], []),
        (["why all of it fell"], []),
        (["Company A note"], []),
        (["the key risks"], []),
        (["key_10-K"], ["KEY"]),
        (["Vitamin K in food"], []),
        (["F-series trucks"], []),
        (["Plan K - NVDA"], ["NVDA"]),
        (["notes for F"], ["F"]),
        (["F annual report"], ["F"]),
        (["A 10-K 2024"], ["A"]),
        (["21-KEY-2024"], ["KEY"]),
        # as written beats another case; the first one is whom it is about
        (["NVDA_key_points"], ["NVDA"]),
        (["K_10-K"], ["K"]),
        (["F_10K_2024"], ["F"]),
        (["ALL_10K"], ["ALL"]),
        (["NVDA_vs_MSFT"], ["NVDA"]),
        (["notes on NVDA and MSFT"], ["NVDA", "MSFT"]),
        # the name before the folder, the nearest folder first
        (["MSFT_supplier", "NVDA"], ["MSFT"]),
        (["note", "MSFT", "NVDA"], ["MSFT"]),
    ],
)
def test_the_tickers_of_the_cell_in_a_name(places, owners):
    assert find_owners(places, (), CELL) == owners


def test_the_cover_counts_where_names_say_nothing():
    assert find_owners(["annual"], ("BRK-B", "BRK-A"), CELL) == ["BRK.B"]
    assert find_owners(["annual"], ("ACMT",), CELL) == []
    assert find_owners(["NVDA"], ("MSFT",), CELL) == ["NVDA"]
    assert find_owners(["annual"], ("ACMT",), ()) == ["ACMT"]


@pytest.mark.parametrize(
    ("places", "ticker"),
    [
        (["NVDA_10K_2025"], "NVDA"),
        (["nvda-10-k-2025-02-26"], "NVDA"),
        (["nvda-20250126"], "NVDA"),
        (["10k", "2025", "NVDA"], "NVDA"),
        (["BRK.B"], "BRK.B"),
        (["BRK-B_10-K"], "BRK-B"),
        (["AAPL_note"], "AAPL"),
        (["AAPL_2025Q3"], "AAPL"),
        (["0700.HK"], "0700.HK"),
        (["NA"], "NA"),
        (["nvda"], "NVDA"),
        (["note_final"], None),
        (["10K", "filings"], None),
        (["meeting with the board"], None),
        (["2025", "docs", "research"], None),
        (["report", "FY2024", "data"], None),
    ],
)
def test_a_ticker_is_guessed_only_where_it_looks_like_one(places, ticker):
    assert guess_ticker(places) == ticker


@pytest.mark.parametrize(
    ("stem", "day"),
    [
        ("nvda-10-k-2025-02-26", date(2025, 2, 26)),
        ("NVDA_20250226", date(2025, 2, 26)),
        ("2025.02.26 note", date(2025, 2, 26)),
        ("NVDA_26-02-2025", date(2025, 2, 26)),
        ("NVDA_02-26-2025", date(2025, 2, 26)),
        ("NVDA_01.02.2025", date(2025, 2, 1)),
        ("NVDA 26 February 2025", date(2025, 2, 26)),
        ("NVDA_Feb-26-2025", date(2025, 2, 26)),
        ("NVDA 2025 Feb 26", date(2025, 2, 26)),
        ("NVDA_20250226093000", date(2025, 2, 26)),
        ("NVDA_01-02-2025", None),
        ("NVDA Feb 2025", None),
        ("NVDA_2025-02-30_2025-03-01", date(2025, 3, 1)),
        ("NVDA_2025", None),
        ("NVDA_2025-13-01", None),
        ("0001045810-25-000023", None),
        ("12025022612", None),
    ],
)
def test_a_day_in_a_name(stem, day):
    assert find_named_day(stem) == day


def test_edgar_names_hold_the_end_of_the_period():
    assert is_edgar_name("nvda-20250126")
    assert is_edgar_name("msft-20240630x10k")
    assert not is_edgar_name("nvda-10-k-2025-02-26")


@pytest.mark.parametrize(
    "given", ["filings", "filings/NVDA", "filings/NVDA/2025", "filings/*/*/*.htm"]
)
def test_a_folder_names_the_ticker_from_above_too(tmp_path, monkeypatch, given):
    """What is handed over may be a folder inside of the company's."""
    (tmp_path / "filings" / "NVDA" / "2025").mkdir(parents=True)
    (tmp_path / "filings" / "NVDA" / "2025" / "10k.htm").write_text("<p>We were sued.</p>")
    monkeypatch.chdir(tmp_path)
    found = read_evidence(given, tickers=["NVDA", "MSFT"])
    assert [one.ticker for one in found.documents] == ["NVDA"]


def test_a_common_folder_is_no_ticker(tmp_path):
    """`data/` around a folder of filings is not about DATA."""
    (tmp_path / "data" / "filings").mkdir(parents=True)
    (tmp_path / "data" / "filings" / "report.txt").write_text("We were sued.")
    with pytest.raises(InputError, match="report"):
        read_evidence(tmp_path / "data" / "filings", tickers=["DATA", "MSFT"])
