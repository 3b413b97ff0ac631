"""No document counts before it was published: what its name, page and folder say of its day."""

from __future__ import annotations

from datetime import date

import pytest

from document_files import FILING
from urisk_nb.readers.documents import read_document, read_folder

TEXT = "A fire stopped the plant of Acme. It is old.\n"
PERIOD = date(2025, 1, 26)  # of the filing; it is signed on 28 February 2025


def read(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    (one,) = read_document(path, tickers=("ACME",)).documents
    return one.date


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("ACME_10-K_2025-01-26.txt", date(2025, 2, 28)),  # the end of the period
        ("ACME_10-K_2025-01-31.txt", date(2025, 2, 28)),  # the month of it
        ("ACME_10-K_2025-02-20.txt", date(2025, 2, 28)),  # before it was signed
        ("ACME_10-K_2025-03-03.txt", date(2025, 3, 3)),
    ],
)
def test_a_day_in_the_name_of_a_filing_is_not_before_its_signature(tmp_path, name, day):
    assert read(tmp_path / name, FILING) == day


def test_the_end_of_a_quarter_in_the_name_of_a_report_is_its_period(tmp_path):
    assert read(tmp_path / "ACME_10-K_2024-12-31.txt", TEXT) == date(2025, 3, 31)
    assert read(tmp_path / "ACME_10-K_2025-02-26.txt", TEXT) == date(2025, 2, 26)
    assert read(tmp_path / "ACME_note_2024-12-31.txt", TEXT) == date(2024, 12, 31)


@pytest.mark.parametrize(
    ("head", "day"),
    [
        ("Date: 2025-02-26", date(2025, 2, 26)),
        ("**Published:** 26 February 2025, 09:30 EST", date(2025, 2, 26)),
        ("Dated: February 26, 2025", date(2025, 2, 26)),
        # of what is told, not of the telling
        ("As of December 31, 2023, Acme had nine plants.", None),
        ("Dated May 5, 2020, the lease ends soon.", None),
        ("Filed on May 5, 2020 by a supplier, the claim is open.", None),
    ],
)
def test_only_a_line_of_its_own_dates_a_note(tmp_path, head, day):
    assert read(tmp_path / "ACME.txt", f"{head}\n\n{TEXT}") == day


def test_a_page_is_dated_by_itself_not_by_its_links(tmp_path):
    times = '<time datetime="2024-05-01">1 May</time> older <time datetime="2025-02-26">now</time>'
    body = f"<html><body>{times}<p>{TEXT}</p></body></html>"
    assert read(tmp_path / "ACME.html", body) == date(2025, 2, 26)
    meta = '<meta property="article:published_time" content="2025-02-25T10:00:00Z">'
    assert read(tmp_path / "ACME.html", meta + body) == date(2025, 2, 25)
    linked = '<script>{"@type": "NewsArticle", "datePublished": "2025-02-24T10:00:00Z"}</script>'
    assert read(tmp_path / "ACME.html", linked + body) == date(2025, 2, 24)


def test_a_download_of_edgar_is_dated_by_its_submission(tmp_path):
    """The page of a filing and the submission around it are one document."""
    folder = tmp_path / "sec-edgar-filings/ACME/10-K/0001045810-25-000023"
    page = "<html><body><p>Item 1A. Risk Factors</p><p>A fire may stop us.</p></body></html>"
    read(folder / "primary-document.html", page)
    (one,) = read_folder(tmp_path, tickers=("ACME",)).documents
    assert (one.form, one.date) == ("10-K", None)
    (folder / "full-submission.txt").write_text(
        "<SEC-DOCUMENT>x.txt : 20250226\n<SEC-HEADER>x\nCONFORMED SUBMISSION TYPE:\t10-K\n"
        "FILED AS OF DATE:\t\t20250226\n</SEC-HEADER>\n"
        f"<DOCUMENT>\n<TYPE>10-K\n<TEXT>\n{page}\n</TEXT>\n</DOCUMENT>\n"
    )
    found = read_folder(tmp_path, tickers=("ACME",))
    assert {one.date for one in found.documents} == {date(2025, 2, 26)}
