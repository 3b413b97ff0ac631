"""A filing says what it is: its items, its form, its dates, its symbols."""

from __future__ import annotations

from datetime import date

import pytest

from document_files import FILING
from urisk_nb.readers import filing_cover
from urisk_nb.readers.filings import find_sections
from urisk_nb.readers.news import read_evidence


def name_sections(text, form=None):
    return [(one.name, one.title) for one in find_sections(text, form)]


def cut(text, form=None):
    """The text of each section by its name."""
    found = find_sections(text, form)
    ends = [one.start for one in found[1:]] + [len(text)]
    return {one.name: text[one.start : end].strip() for one, end in zip(found, ends, strict=True)}


ITEMS = {
    "Item 1": "Business",
    "Item 1A": "Risk Factors",
    "Item 3": "Legal Proceedings",
    "Item 7": "Management's Discussion and Analysis",
    "Item 9A": "Controls and Procedures",
    "Signatures": "",
}


@pytest.mark.parametrize("form", ["10-K", "10-K405", "10-K/A", None])
def test_the_items_of_an_annual_report(form):
    """The table of contents and lines that mention an item begin no section."""
    assert dict(name_sections(FILING, form)) == ITEMS
    parts = cut(FILING, form)
    assert parts["Item 1"].startswith("Item 1. Business\n\nWe make drills")
    assert parts["Item 1A"].endswith("Item 3. Legal Proceedings, which follow.")
    assert "sued us" in parts["Item 3"]
    assert "one person ran all payments" in parts["Item 9A"]
    assert parts["Signatures"].startswith("SIGNATURES")


@pytest.mark.parametrize(
    "heading",
    [
        "ITEM 1A. RISK FACTORS",
        "Item 1A - Risk Factors",
        "Item 1A: Risk factors",
        "Item 1A Risk Factors",
        "Item\u00a01A.\u00a0\u00a0Risk Factors",
        "Item 1A.\n\nRisk Factors",
        "PART I, Item 1A. Risk Factors",
        "**Item 1A. Risk Factors**",
        "# Item 1A. Risk Factors",
        "Item 1A(T). Risk Factors",
        "Item 1A.\tRisk Factors.",
        "   ITEM 1A.  RISK FACTORS  ",
        "Item 1A. Risk Factors. You should read these with care.",
    ],
)
def test_a_heading_in_many_hands(heading):
    text = f"Item 1. Business\n\nWe make saws.\n\n{heading}\n\nA fire.\n\nItem 3. Legal Proceedings"
    assert ("Item 1A", "Risk Factors") in name_sections(text)


@pytest.mark.parametrize(
    "line",
    [
        "Item 1A of this report names risks.",
        "Item 1A, “Risk Factors,” names them.",
        "Item 1A. “Risk Factors” above names them.",
        "“Item 1A. Risk Factors” names them.",
        "Items of clothing are sold. ",
        "Item 405 of Regulation S-K",
        "Item 60 costs more.",
        "Item 1A and Item 7 name them.",
    ],
)
def test_a_line_that_mentions_an_item_is_no_heading(line):
    text = (
        "Item 1. Business\n\nWe make saws.\n\n" + line + "\n\nMore of it.\n\n"
        "Item 2. Properties\n\nA plant.\n\nItem 3. Legal Proceedings\n\nNone."
    )
    assert [name for name, _ in name_sections(text)] == ["Item 1", "Item 2", "Item 3"]


def test_a_heading_behind_the_line_of_its_part():
    text = "Item 8. Financial Statements\n\nOn May 13,\nPART III\n\nItem 10. Directors\n\nNo."
    assert [name for name, _ in name_sections(text, "10-K")] == ["Item 8", "Item 10"]


def test_a_heading_repeated_on_each_page_begins_one_section():
    text = "Item 1. Business\n\nOne.\n\n" + "Item 7. Management's Discussion\n\nA page.\n\n" * 4
    text += "Item 8. Financial Statements\n\nThey follow."
    assert [name for name, _ in name_sections(text)] == ["Item 1", "Item 7", "Item 8"]


def test_an_index_at_the_end_is_no_section():
    entries = "\n".join(f"Item {item}. {title}\n" for item, title in (
        ("1", "Business"), ("1A", "Risk Factors"), ("3", "Legal Proceedings"), ("7", "Management")
    ))  # fmt: skip
    body = FILING.replace("We make drills", "We make planes. " * 40).replace(
        "A fire", "A storm. " * 40
    )
    assert list(cut(body + "\n\n" + entries, "10-K"))[:5] == list(ITEMS)[:5]


def test_an_entry_of_the_contents_stands_for_no_missing_heading():
    text = FILING.replace("Item 1. Business\n", "Our saws\n")
    assert [name for name, _ in name_sections(text, "10-K")] == list(ITEMS)[1:]


def test_filings_without_items_have_no_sections():
    text = FILING.replace("Item", "Part").replace("ITEM", "PART")
    assert find_sections(text, "10-K") == ()
    assert find_sections("Sales fell. Item 7 of the agenda was dropped.") == ()
    assert find_sections("", "10-K") == ()


def test_other_forms_have_no_items():
    assert find_sections(FILING, "DEF 14A") == ()


QUARTERLY = """
PART I. FINANCIAL INFORMATION

Item 1. Financial Statements

The statements follow.

Item 2. Management's Discussion and Analysis

Sales fell.

Item 4. Controls and Procedures

They were not effective.

PART II. OTHER INFORMATION

Item 1. Legal Proceedings

A customer sued us.

Item 1A. Risk Factors

None changed.

Item 6. Exhibits

None.
"""


def test_the_items_of_a_quarterly_report_have_their_part():
    assert name_sections(QUARTERLY, "10-Q") == [
        ("Part I, Item 1", "Financial Statements"),
        ("Part I, Item 2", "Management's Discussion and Analysis"),
        ("Part I, Item 4", "Controls and Procedures"),
        ("Part II, Item 1", "Legal Proceedings"),
        ("Part II, Item 1A", "Risk Factors"),
        ("Part II, Item 6", "Exhibits"),
    ]


def test_the_title_says_the_part_where_its_heading_is_missing():
    text = QUARTERLY.replace("PART II. OTHER INFORMATION", "")
    assert "Part II, Item 1" in dict(name_sections(text, "10-Q"))


def test_the_items_of_a_current_report():
    text = (
        "Item 4.02 Non-Reliance on Previously Issued Financial Statements\n\nSee below.\n\n"
        "Item 9.01. Financial Statements and Exhibits\n\n(d) Exhibits"
    )
    assert name_sections(text, "8-K") == [
        ("Item 4.02", "Non-reliance on previously issued financial statements"),
        ("Item 9.01", "Financial statements and exhibits"),
    ]


def test_text_that_lost_its_lines_has_its_items():
    text = " ".join(FILING.split()).replace("Item 7 of", "the next part of")
    assert [name for name, _ in name_sections(text, "10-K")] == list(ITEMS)[:5]


def test_an_excerpt_that_begins_with_its_item():
    assert name_sections("ITEM 7. MANAGEMENT’S DISCUSSION\n\nSales fell.") == [
        ("Item 7", "Management's Discussion and Analysis")
    ]


# --- form, dates, symbols -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("NVDA_10K_2025", "10-K"),
        ("nvda-10-k-2025-02-26", "10-K"),
        ("acme 10-K405 1998", "10-K405"),
        ("10ka", "10-K/A"),
        ("ACME_10-Q", "10-Q"),
        ("acme_8k_may", "8-K"),
        ("acme-def14a", "DEF 14A"),
        ("ACME-20F", "20-F"),
        ("0001018724-25-000004", None),
        ("AAPL_note", None),
        ("410k_plan", None),
    ],
)
def test_the_form_in_a_name(name, form):
    assert filing_cover.find_form_in_name(name) == form


def test_the_form_on_a_cover():
    assert filing_cover.find_form(FILING) == "10-K"
    assert filing_cover.find_form(FILING.replace("FORM 10-K", "FORM 10-Q/A")) == "10-Q/A"
    call = "Please see our Form 10-K on file with the Securities and Exchange Commission. Welcome."
    assert filing_cover.find_form(call) is None


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("July 30, 2025", date(2025, 7, 30)),
        ("Sept. 3, 2024", date(2024, 9, 3)),
        ("30 July 2025", date(2025, 7, 30)),
        ("JANUARY 26, 2025", date(2025, 1, 26)),
        ("2025-07-30", date(2025, 7, 30)),
        ("20250730", date(2025, 7, 30)),
        ("February 30, 2025", None),
        ("12345678", None),
        ("Item 4, 2025", None),
    ],
)
def test_dates_as_filings_write_them(text, day):
    assert filing_cover.find_dates(text) == ([day] if day else [])


def test_the_dates_of_a_filing():
    end = filing_cover.find_period_end(FILING)
    assert end == date(2025, 1, 26)
    assert filing_cover.find_signature_date(FILING, end) == date(2025, 2, 28)
    assert filing_cover.find_signature_date(FILING, date(2025, 6, 1)) is None
    other = FILING.replace("Pursuant to", "In accordance with").replace("Date:", "Dated:\n\n")
    assert filing_cover.find_signature_date(other, end) == date(2025, 2, 28)


@pytest.mark.parametrize(
    "cover",
    [
        "For the fiscal year ended March 31, 2004",
        "FOR THE FISCAL YEAR ENDED\n\n     MARCH 31, 2004",
        "[X] ANNUAL REPORT UNDER SECTION 13. For the fiscal year ended: 31 March 2004",
        "For the year ended March 31, 2004. Transition period from ______ to ______",
        "For the quarterly period ended March 31, 2004",
        "For the transition period from January 1, 2004 to March 31, 2004",
        "For the fifty-two weeks ended March 31, 2004",
        "Transition report for the three months ended March 31, 2004",
    ],
)
def test_the_period_of_a_cover(cover):
    """10-K, 10-KSB, 20-F, 10-Q and transition reports say it in their own words."""
    later = "\nDebt is due in 2009. Aggregate market value as of September 30, 2003."
    assert filing_cover.find_period_end(cover + later) == date(2004, 3, 31)


def test_a_document_carries_its_period(tmp_path):
    """By the cover of a file; what is old is counted from there."""
    (tmp_path / "acme.txt").write_text(FILING, encoding="utf-8")
    (one,) = read_evidence(str(tmp_path / "acme.txt")).documents
    assert one.period_end == date(2025, 1, 26)


@pytest.mark.parametrize(
    ("form", "day"),
    [("10-K", date(2025, 4, 26)), ("10-Q/A", date(2025, 3, 12)), ("8-K", date(2025, 2, 1))],
)
def test_an_estimate_is_the_last_day_of_filing(form, day):
    """90 days after January 26 is April 26; 45 are March 12."""
    assert filing_cover.estimate_filing_date(date(2025, 1, 26), form) == day


def test_the_symbols_on_a_cover():
    assert filing_cover.find_symbols(FILING)[:1] == ("ACMT",)
    assert filing_cover.find_symbols("Our shares trade as (NYSE: ACM).") == ("ACM",)
    assert filing_cover.find_symbols("Trading Symbol(s)\nNone\nYes x No") == ()
    assert filing_cover.find_symbols("We sell symbols.") == ()


BODY = "We make saws for builders in nine countries, and sell them in shops of ours. " * 8
FOREIGN = ["Item 3", "Item 3D", "Item 4", "Item 4A", "Item 5", "Item 8", "Item 16K", "Item 19"]


@pytest.mark.parametrize("item", ["Item {}. {}", "ITEM {} – {}", "Item {}\n\n{}"])
def test_the_items_of_a_foreign_annual_report(item):
    """Form 20-F has titles of its own."""
    titles = [
        *("Key Information", "Risk Factors", "Information on the Company"),
        *("Unresolved Staff Comments", "Operating and Financial Review and Prospects"),
        *("Financial Information", "Cybersecurity", "Exhibits"),
    ]
    names = ["3", "3.D", "4", "4A", "5", "8", "16K", "19"]
    heads = [item.format(*pair) for pair in zip(names, titles, strict=True)]
    text = "\n\n".join(f"{head}\n\n{BODY}" for head in heads)
    sections = find_sections(text, "20-F")
    assert [one.name for one in sections] == FOREIGN
    assert [one.title for one in sections] == titles


@pytest.mark.parametrize(
    "item", ["Item\xa0{}.\xa0\xa0{}", "Item{}. {}", "ITEM {}:\xa0{}", "Item {}.\u2003{}"]
)
def test_headings_with_odd_spaces_are_found(item):
    names = {"1": "Business", "1A": "Risk Factors", "9(A)": "Controls and Procedures"}
    text = "\n\n".join(f"{item.format(*pair)}\n\n{BODY}" for pair in names.items())
    found = [one.name for one in find_sections(text, "10-K")]
    assert found == ["Item 1", "Item 1A", "Item 9A"]
