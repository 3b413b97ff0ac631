"""PDF files become paragraphs: broken lines and words are whole, page edges are left out."""

from __future__ import annotations

import io
from collections import Counter

import pytest

from document_files import make_pdf
from urisk_nb.errors import InputError
from urisk_nb.readers.pdf_text import join_lines, read_pdf


def test_the_pages_of_a_file_are_sections():
    read = read_pdf(make_pdf("Sales fell by half.", "The auditor resigned."))
    assert read.text == "Sales fell by half.\n\nThe auditor resigned."
    assert [(one.name, one.start) for one in read.pages] == [("page 1", 0), ("page 2", 21)]
    assert read.notes == ()


def test_hard_wraps_are_joined_and_paragraphs_stay():
    page = (
        "Risk of fire\n"
        "A regulator fined the company five million dollars for the fire that broke out\n"
        "in its largest plant in May. The company paid the fine in June and closed the\n"
        "plant.\n"
        "It has appealed against a second fine, which the court has not decided about as\n"
        "of today."
    )
    lines = page.split("\n")
    paragraphs = [lines[0], " ".join(lines[1:4]), " ".join(lines[4:])]
    assert read_pdf(make_pdf(page)).text.split("\n\n") == paragraphs


@pytest.mark.parametrize(
    ("lines", "whole"),
    [
        (["We comply with inter-", "national rules."], "We comply with international rules."),
        (["These are non-", "binding offers."], "These are non-binding offers."),
        (
            ["A firm in the U.S. and", "non-", "U.S. firms."],
            "A firm in the U.S. and non-U.S. firms.",
        ),
        (
            ["a cost-", "benefit test, a cost-benefit one"],
            "a cost-benefit test, a cost-benefit one",
        ),
        (["a co-", "operation, and cooperation"], "a cooperation, and cooperation"),
        (["the range 10-", "20 percent"], "the range 10- 20 percent"),
    ],
)
def test_a_hyphen_at_a_line_end(lines, whole):
    words = Counter(word for line in lines for word in line.lower().replace(",", "").split())
    assert " ".join(join_lines(lines, words)) == whole


def test_bullets_begin_paragraphs():
    lines = [
        "The risks are:",
        "• fires in our plants that",
        "stop them;",
        "• floods.",
        "(a) storms",
    ]
    assert join_lines(lines, Counter()) == [
        "The risks are:",
        "• fires in our plants that stop them;",
        "• floods.",
        "(a) storms",
    ]


def test_headers_footers_and_page_numbers_go():
    pages = [
        f"Acme Tools Annual Report\nThe story of the {word} plant is told on this page.\n"
        f"It burnt down.\n{number}"
        for number, word in enumerate(("first", "second", "third", "fourth"), 11)
    ]
    text = read_pdf(make_pdf(*pages)).text
    assert "Annual Report" not in text
    assert not any(sign.isdigit() for sign in text)
    assert text.count("told on this page") == 4
    assert text.count("It burnt down.") == 1  # a sentence at the edge of each page is text once


def test_a_sentence_goes_on_on_the_next_page():
    read = read_pdf(make_pdf("The company lost its largest cus-\n12", "tomer in the spring.\n13"))
    assert read.text == "The company lost its largest customer in the spring."
    assert [one.start for one in read.pages] == [0, read.text.index("tomer")]


def test_a_file_of_pictures_has_no_text():
    with pytest.raises(InputError, match="no text on its 2 pages") as caught:
        read_pdf(make_pdf("", ""))
    assert "OCR" in caught.value.fix


def test_a_page_that_is_too_large_is_named(monkeypatch):
    monkeypatch.setattr("urisk_nb.readers.pdf_text.MAX_PAGE_BYTES", 1000)
    read = read_pdf(make_pdf("Sales fell.", "x" * 2000))
    assert read.text == "Sales fell."
    assert read.notes == ("page 2 could not be read",)


@pytest.mark.parametrize("password", ["secret", ""])
def test_a_password_is_asked_for_only_where_one_is_needed(password):
    """Some files need a password for changes only."""
    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf("Sales fell.")))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    if not password:
        assert read_pdf(out.getvalue()).text == "Sales fell."
        return
    with pytest.raises(InputError, match="protected by a password"):
        read_pdf(out.getvalue())


def test_too_many_pages_are_refused(monkeypatch):
    monkeypatch.setattr("urisk_nb.readers.pdf_text.MAX_PAGES", 1)
    with pytest.raises(InputError, match="2 pages; at most 1"):
        read_pdf(make_pdf("a", "b"))
