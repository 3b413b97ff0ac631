"""
Real filings, where they are at hand beside the checkout: read whole, with their items.

None of their text is here. What each filing should show was counted by reading it.
"""

from __future__ import annotations

import time
from datetime import date

import pytest

from harness import ROOT
from urisk_nb.readers.documents import read_document, read_folder

FILINGS = ROOT.parent / "shared" / "data" / "filings"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILINGS.is_dir(), reason="the development filings are not here"),
]
# Filings whose items have no headings, or whose text is one item only.
FEW_SECTIONS = {"ARX_1995": 0, "PCG_2017": 1, "PED_2017": 1}
FIRST_ITEMS = ["Item 1", "Item 1A", "Item 3", "Item 7", "Item 8"]
BEFORE_2005 = {"GEEK_2003", "IBM_1997", "INTC_2002", "PSEM_2005"}  # no Item 1A yet
# The source lost the beginnings of these words, or the heading.
WITHOUT_HEADING = {"RELL_2025": {"Item 1", "Item 3"}, "PCG_2018": {"Item 7"}}


def read_all(name):
    return {one.source.split(".")[0]: one for one in read_folder(FILINGS / name).documents}


@pytest.mark.parametrize(("folder", "count"), [("filings", 27), ("distress", 17)])
def test_the_items_of_the_development_filings(folder, count):
    documents = read_all(folder)
    assert len(documents) == count
    for name, one in documents.items():
        assert one.ticker == name.split("_")[0]
        found = [section.name for section in one.sections]
        assert found == list(dict.fromkeys(found))
        if name in FEW_SECTIONS:
            assert len(found) == FEW_SECTIONS[name], name
        elif one.form == "10-Q":
            assert {"Part I, Item 1", "Part I, Item 2", "Part II, Item 1A"} <= set(found)
        else:
            missing = set(FIRST_ITEMS) - set(found) - WITHOUT_HEADING.get(name, set())
            assert missing <= ({"Item 1A"} if name in BEFORE_2005 else set()), name


def test_pages_of_edgar_say_who_they_are():
    found = {one.source: one for one in read_folder(FILINGS / "html").documents}
    seen = {name: (one.ticker, one.form, one.date) for name, one in found.items()}
    assert seen == {
        "ABVC_2025-04-15_8-K.html.gz": ("ABVC", "8-K", date(2025, 4, 15)),
        "MSFT_2013_10-K.html.gz": ("MSFT", "10-K", date(2013, 7, 30)),
        "PGR_2023_10-K.html.gz": ("PGR", "10-K", date(2024, 2, 26)),
    }
    names = [section.name for section in found["ABVC_2025-04-15_8-K.html.gz"].sections]
    assert names[:2] == ["Item 2.02", "Item 4.02"]


@pytest.mark.parametrize(
    ("name", "seconds"), [("distress/KHC_2018.txt.gz", 1.4), ("html/MSFT_2013_10-K.html.gz", 8.9)]
)
def test_a_large_filing_takes_a_second(name, seconds):
    """1 MB of text a second, 1 MB of HTML in 5 s: these have 1.4 and 1.8 MB."""
    started = time.process_time()
    read_document(FILINGS / name)
    assert time.process_time() - started < seconds
