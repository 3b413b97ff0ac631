"""Files, folders and patterns become documents; what is not used is named."""

from __future__ import annotations

import gzip
import json
import os
import socket
from datetime import date

import pytest

from document_files import FILING, make_docx, make_pdf
from urisk_nb.errors import InputError
from urisk_nb.readers.documents import is_document, read_document, read_documents, read_folder
from urisk_nb.readers.news import read_evidence

CELL = ("NVDA", "MSFT", "BRK.B")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No file makes the readers connect anywhere."""

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(folder, **files):
    for name, content in files.items():
        put(folder, name, content)


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_one(path, **options):
    (document,) = read_document(path, **options).documents
    return document


SENTENCE = "A regulator fined the company."
PAGE = "<html><body><p>A regulator <b>fined</b> the company.</p></body></html>"
FORMS = {
    "NVDA_note.txt": SENTENCE,
    "NVDA_note.md": SENTENCE,
    "NVDA_note.html": PAGE,
    "NVDA.htm": PAGE,
    "NVDA_10-K.xhtml": f"<?xml version='1.0' encoding='UTF-8'?>{PAGE}",
    "nvda.pdf": make_pdf(SENTENCE),
    "NVDA report.docx": make_docx(SENTENCE),
    "NVDA_note.txt.gz": gzip.compress(SENTENCE.encode()),
    "NVDA_page.html.gz": gzip.compress(PAGE.encode()),
    "NVDA_utf16.txt": SENTENCE.encode("utf-16"),
    "NVDA_utf16.html": PAGE.encode("utf-16"),
    "NVDA_page.txt": PAGE,
    "NVDA_print.html": make_pdf(SENTENCE),
    "NVDA_filing.json": json.dumps({"item_1": SENTENCE}),
    "NVDA/2025/10k.htm": PAGE,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(tmp_path, name):
    path = put(tmp_path, name, FORMS[name])
    for tickers in (CELL, ()):
        document = read_one(path, tickers=tickers)
        assert (document.ticker, document.text) == ("NVDA", SENTENCE)
        assert document.source == path.name


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("<meta charset='windows-1252'>", "cp1252"),
        ("<meta http-equiv='Content-Type' content='text/html; charset=iso-8859-1'>", "cp1252"),
        ("<meta charset='shift_jis'>", "shift_jis"),
        ("<meta charset='utf-8'>", "cp1252"),  # what it says is wrong
        ("", "cp1252"),
        ("<?xml version='1.0' encoding='ASCII'?>", "utf-8"),
    ],
)
def test_the_encoding_of_a_page(tmp_path, head, encoding):
    text = "売上高は減少した。" if encoding == "shift_jis" else "The café’s sales fell – by half."
    path = put(tmp_path, "NVDA.html", f"{head}<p>{text}</p>".encode(encoding))
    assert read_one(path).text == text


def test_a_folder_is_read_with_its_subfolders(tmp_path):
    """Every file that is not used is named once, with the reason."""
    write(
        tmp_path,
        **{
            "NVDA_10K_2025.txt": SENTENCE,
            "MSFT/2025/10k.htm": PAGE,
            "deep/er/BRK.B_memo.pdf": make_pdf(SENTENCE),
            "AMD_note.txt": "Another one's.",
            "minutes.txt": "Nobody's.",
            "logo.png": b"\x89PNG",
            "old.xls": b"\xd0\xcf",
            "old.doc": b"\xd0\xcf",
            ".hidden.txt": "hidden",
            "NVDA_broken.pdf": b"%PDF-1.4 broken",
            "news.csv": "ticker,text\nNVDA,x\n",
            "rows.json": '[{"ticker": "NVDA", "text": "x"}]',
            "table.txt": "ticker,text\nNVDA,x\n",
        },
    )
    found = read_folder(tmp_path, tickers=CELL)
    assert [(one.ticker, one.source) for one in found.documents] == [
        ("MSFT", "MSFT/2025/10k.htm"),
        ("NVDA", "NVDA_10K_2025.txt"),
        ("BRK.B", "deep/er/BRK.B_memo.pdf"),
    ]
    (note,) = found.notes
    assert note.startswith(f"10 files of {tmp_path} were not read: ")
    for name in ("AMD_note.txt", "minutes.txt", "logo.png", "old.xls", "NVDA_broken.pdf"):
        assert note.count(name) == 1
    assert "AMD_note.txt, minutes.txt (no ticker of the cell)" in note
    assert "the PDF file is broken" in note


def test_a_long_list_of_files_is_counted(tmp_path):
    write(tmp_path, **{f"pic{number:02}.png": "x" for number in range(30)}, **{"NVDA.txt": "x y."})
    (note,) = read_folder(tmp_path).notes
    assert note.endswith("pic09.png (not a document) and 20 more.")


def test_a_folder_is_listed_not_built(tmp_path):
    """Text files named by ticker are read by listing the folder."""
    write(tmp_path, **{"NVDA.txt": "Fined.", "BRK.B.md": "Sued."})
    assert [(one.ticker, one.text) for one in read_folder(tmp_path).documents] == [
        ("BRK.B", "Sued."),
        ("NVDA", "Fined."),
    ]


@pytest.mark.skipif(os.name == "nt", reason="a file name there has no asterisk")
def test_a_folder_has_a_file_for_all_companies(tmp_path):
    """What is in `*.txt` counts for every company."""
    write(tmp_path, **{"*.txt": "Rates rose.", "NA.txt": "Fined."})
    found = read_evidence(tmp_path).documents
    assert [(one.ticker, one.text) for one in found] == [(None, "Rates rose."), ("NA", "Fined.")]


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        ("filings", ["MSFT.htm", "NVDA.txt", "old/NVDA_2020.txt"]),
        ("filings/*.txt", ["NVDA.txt"]),
        ("filings/**/*.txt", ["NVDA.txt", "old/NVDA_2020.txt"]),
        ("filings/[M]*", ["MSFT.htm"]),
        ("filings/NVDA.txt", ["NVDA.txt"]),
        ("BRK.B=filings/MSFT.htm", ["MSFT.htm"]),
        ("BRK.B = filings/*.htm", ["MSFT.htm"]),
        ("BRK.B=filings/old", ["NVDA_2020.txt"]),
    ],
)
def test_what_a_cell_can_name(tmp_path, monkeypatch, given, sources):
    write(
        tmp_path / "filings",
        **{"NVDA.txt": "Fined.", "MSFT.htm": "<p>Sued.</p>", "old/NVDA_2020.txt": "Old."},
    )
    monkeypatch.chdir(tmp_path)
    found = read_evidence(given, tickers=CELL).documents
    assert sorted(one.source for one in found) == sources
    if given.startswith("BRK.B"):
        assert {one.ticker for one in found} == {"BRK.B"}


def test_tables_and_missing_paths_are_left_to_others(tmp_path):
    table = put(tmp_path, "rows.txt", "ticker,text\nNVDA,Fined.\n")
    assert read_documents(table) is None
    assert not is_document(put(tmp_path, "news.json", '[{"title": "x", "symbol": "NVDA"}]'))
    assert read_documents(tmp_path / "nothing.csv") is None
    assert [one.text for one in read_evidence(table).documents] == ["Fined."]


def test_a_missing_file_of_a_company_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no file or folder 'none\.pdf' for NVDA"):
        read_documents("NVDA=none.pdf")


def test_a_table_has_its_own_tickers(tmp_path):
    table = put(tmp_path, "rows.csv", "ticker,text\nMSFT,Fined.\n")
    with pytest.raises(InputError, match="is a table") as caught:
        read_documents(f"NVDA={table}")
    fixed = caught.value.fix.partition("--evidence ")[2]
    assert read_evidence(fixed).documents[0].ticker == "MSFT"


@pytest.mark.parametrize("given", ["none/*.htm", "none/**/*.htm"])
def test_a_pattern_that_matches_nothing_is_an_error(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no file matches"):
        read_documents(given)


@pytest.mark.parametrize("tickers", [CELL, ()])
def test_nobody_can_tell_whom_a_file_is_about(tmp_path, tickers):
    """The fix that is printed names the file and works."""
    path = put(tmp_path, "note_final.txt", SENTENCE)
    for read in (read_document, lambda path, **options: read_folder(path.parent, **options)):
        with pytest.raises(
            InputError, match=r"note_final\.txt: neither its name nor its"
        ) as caught:
            read(path, tickers=tickers)
        fixed = caught.value.fix.partition('--evidence "')[2].rstrip('"')
        assert read_evidence(fixed, tickers=tickers).documents[0].ticker == "NVDA"


def test_a_folder_names_the_file_that_cannot_be_read(tmp_path):
    """Where it has no other: the error is that file's, also three folders down."""
    put(tmp_path, "NVDA/2024/10k.html", "<html></html>")
    with pytest.raises(InputError, match=r"^NVDA/2024/10k\.html: it shows no text\."):
        read_folder(tmp_path)


def test_a_folder_of_other_companies_is_no_error(tmp_path):
    put(tmp_path, "AMD_note.txt", SENTENCE)
    found = read_folder(tmp_path, tickers=CELL)
    assert found.documents == ()
    assert "AMD_note.txt (no ticker of the cell)" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "seen"), [("logo.png", "not a document"), (None, r"no \.txt, \.md")]
)
def test_a_folder_without_documents_is_refused(tmp_path, name, seen):
    if name:
        put(tmp_path, name, b"x")
    with pytest.raises(InputError, match=seen):
        read_folder(tmp_path)


# --- dates and forms ------------------------------------------------------------------------------


def read_filing(folder, name, text=FILING):
    return read_document(put(folder, name, text), tickers=("ACMT", *CELL))


@pytest.mark.parametrize(
    ("name", "text", "day"),
    [
        ("acmt-10-k-2025-03-04.txt", FILING, date(2025, 3, 4)),
        ("ACMT_10K_20250304.txt", FILING, date(2025, 3, 4)),
        # the end of the period is no filing date: the signature is
        ("acmt-20250126.txt", FILING, date(2025, 2, 28)),
        ("ACMT_10-K_2025-01-26.txt", FILING, date(2025, 2, 28)),
        ("ACMT.txt", FILING, date(2025, 2, 28)),
        # January 26 and 90 days
        ("ACMT.txt", FILING.replace("Date: February 28, 2025", ""), date(2025, 4, 26)),
        ("acmt-20250126.htm", "<p>Sales of the company fell.</p>", date(2025, 4, 26)),
        ("acmt-20250126_10Q.htm", "<p>Sales of the company fell.</p>", date(2025, 3, 12)),
        ("acmt-20250126.txt", SENTENCE, date(2025, 1, 26)),  # no page of EDGAR's
        ("ACMT_note_2025-02-01.txt", SENTENCE, date(2025, 2, 1)),
        ("ACMT_note.txt", f"Date: 3 February 2025\n\n{SENTENCE}", date(2025, 2, 3)),
        ("ACMT_call.md", f"# Call\n\n**Date:** 2025-07-31\n\n{SENTENCE}", date(2025, 7, 31)),
        ("ACMT_note.txt", f"{SENTENCE} It did so on May 5, 2024.", None),
        (
            "ACMT.html",
            '<meta property="article:published_time" content="2025-02-05T09:00:00Z"><p>Fined.</p>',
            date(2025, 2, 5),
        ),
    ],
)
def test_the_day_from_which_a_document_counts(tmp_path, name, text, day):
    found = read_filing(tmp_path, name, text)
    assert found.documents[0].date == day


def test_an_estimated_day_is_noted(tmp_path):
    found = read_filing(tmp_path, "ACMT.txt", FILING.replace("Date: February 28, 2025", ""))
    (note,) = found.notes
    assert note.startswith("1 filing states no filing date; the SEC deadline is used")
    assert note.endswith(": ACMT.txt.")


def test_a_filing_says_its_form_its_items_and_its_ticker(tmp_path):
    (one,) = read_filing(tmp_path, "annual.txt").documents
    assert (one.ticker, one.form) == ("ACMT", "10-K")
    at = one.text.index("A fire could stop")
    assert one.section_at(at).name == "Item 1A"
    assert one.section_at(at).title == "Risk Factors"


XBRL = """<?xml version='1.0' encoding='ASCII'?><html xmlns:ix="http://www.xbrl.org/2013/inlineXBRL">
<head><title>acmt-20250126</title></head><body><div style="display:none"><ix:header><ix:hidden>
<ix:nonNumeric contextRef="c1" name="dei:AmendmentFlag">true</ix:nonNumeric></ix:hidden>
</ix:header></div><p>FORM
<ix:nonNumeric name="dei:DocumentType" contextRef="c1">10-Q</ix:nonNumeric></p><p>Period ended
<ix:nonNumeric contextRef="c1" name="dei:DocumentPeriodEndDate"
format="ixt:date">April&#160;27, 2025</ix:nonNumeric></p><table><tr><td>Common</td><td>
<ix:nonNumeric contextRef="c1" name="dei:TradingSymbol"><b>ACMT</b></ix:nonNumeric></td></tr>
</table><p>Item 2. Management's Discussion</p>
<p>Sales of <ix:nonFraction name="x:R">5</ix:nonFraction>
million dollars fell.</p><table><tr><td>Date: May 30, 2025</td><td>/s/ J. Doe</td><td></td></tr>
</table></body></html>"""


def test_inline_xbrl_says_who_and_when(tmp_path):
    (one,) = read_filing(tmp_path, "primary_doc.htm", XBRL).documents
    assert (one.ticker, one.form) == ("ACMT", "10-Q/A")
    assert one.date == date(2025, 6, 11)  # April 27 and 45 days
    assert "Sales of 5 million dollars fell." in one.text
    assert "true" not in one.text
    assert [section.name for section in one.sections] == ["Part I, Item 2"]
    at = one.text.index("Sales of")
    assert XBRL[one.find_origin(at) :].startswith("Sales of")


SUBMISSION = f"""<SEC-DOCUMENT>0000.txt : 20250304
<SEC-HEADER>
CONFORMED SUBMISSION TYPE:\t10-K
CONFORMED PERIOD OF REPORT:\t20250126
FILED AS OF DATE:\t\t20250304
</SEC-HEADER>
<DOCUMENT>
<TYPE>EX-21
<TEXT>
The list of subsidiaries.
</TEXT>
</DOCUMENT>
<DOCUMENT>
<TYPE>10-K
<SEQUENCE>1
<FILENAME>../../etc/passwd
<TEXT>
{FILING}
<PAGE>                                  2
<TABLE>
<CAPTION>
                      2024        2023
<S>                    <C>         <C>
Credit losses          5           4
</TABLE>
The company was fined in May.
</TEXT>
</DOCUMENT>
<DOCUMENT>
<TYPE>EX-99.1
<TEXT><html><p>A press release.</p></html></TEXT>
</DOCUMENT>
</SEC-DOCUMENT>"""


def test_the_main_document_of_a_submission_is_read(tmp_path):
    found = read_filing(tmp_path, "0000.txt", SUBMISSION)
    (one,) = found.documents
    assert (one.ticker, one.form, one.date) == ("ACMT", "10-K", date(2025, 3, 4))
    for gone in ("subsidiaries", "press release", "Credit losses", "<TABLE>", "<PAGE>", "SEC-"):
        assert gone not in one.text
    assert found.notes == (
        "0000.txt: only the 10-K of its 3 documents was read, not EX-21, EX-99.1.",
    )
    at = one.text.index("The company was fined")
    assert SUBMISSION[one.find_origin(at) :].startswith("The company was fined in May.")


def test_edgar_crawlers_json(tmp_path):
    filing = {
        "cik": "320193",
        "company": "Acme",
        "filing_type": "10-K",
        "filing_date": "2025-03-04",
        "filename": "320193_10K_2025.htm",
        "item_1": "Item 1. Business\nWe make saws.",
        "item_1A": "Item 1A. Risk Factors\nA fire.",
        "item_1B": "",
        "ITEM_9A": "Controls failed.",
    }
    (one,) = read_document(put(tmp_path, "f.json", json.dumps(filing)), ticker="nvda").documents
    assert (one.ticker, one.form, one.date) == ("NVDA", "10-K", date(2025, 3, 4))
    assert [(part.name, part.title) for part in one.sections] == [
        ("Item 1", "Business"),
        ("Item 1A", "Risk Factors"),
        ("Item 9A", ""),
    ]
    assert one.section_at(one.text.index("A fire")).name == "Item 1A"


def test_word_files(tmp_path):
    content = make_docx(
        "Head", SENTENCE, rows=[["Sales", "5"], ["Risk", "The auditor left in March."]]
    )
    assert read_one(put(tmp_path, "NVDA.docx", content)).text.split("\n\n") == [
        "Head",
        SENTENCE,
        "The auditor left in March.",
    ]


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (gzip.compress(os.urandom(5000))[:3000], "is cut off"),
        (b"\x1f\x8b\x08\x00" + b"x" * 99, "gzip file is broken"),
        (b"", "is empty"),
        (b"\0" * 999, "holds no text"),
        (b"PK\x03\x04", "is an archive"),
    ],
)
def test_a_single_file_that_cannot_be_read_is_an_error(tmp_path, content, seen):
    with pytest.raises(InputError, match=rf"NVDA\.txt\.gz: .*{seen}"):
        read_document(put(tmp_path, "NVDA.txt.gz", content))


def test_markdown_marks_do_not_reach_the_text(tmp_path):
    text = "# Note\n\nA **regulator** [fined](https://example.org/a) the company. 2 ** 3 = 8."
    one = read_one(put(tmp_path, "NVDA.md", text))
    assert one.text == "# Note\n\nA regulator fined the company. 2 ** 3 = 8."
    assert text[one.find_origin(one.text.index("the company")) :].startswith("the company")
