"""Single values of a news row: names of fields, dates, titles and bodies, HTML."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from harness import ROOT
from urisk_nb.readers.news import read_evidence
from urisk_nb.readers.news_fields import FIELDS, SEVERAL, group_labels
from urisk_nb.readers.news_values import read_day, read_markup


def test_the_documents_list_every_name():
    """docs/evidence.md shows the table that the code uses."""
    page = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    table = page.partition("<!-- fields:")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w+) \|(.*)\|$", table, re.MULTILINE)
    shown = {
        field: tuple(re.findall(r"`(\w+)`", names)) for field, names in rows if field != "field"
    }
    assert shown == FIELDS


def test_names_count_in_any_writing():
    """No name means two fields, and those of lists are names of tickers."""
    names = [name.replace("_", "") for group in FIELDS.values() for name in group]
    assert len(names) == len(set(names))
    assert {name.replace("_", "") for name in FIELDS["ticker"]} >= SEVERAL
    for label in (
        "publishedAt",
        "published_at",
        "PUBLISHED AT",
        "published-at",
        "\ufeffPublishedAt",
    ):
        assert group_labels((label, "author")) == {"date": (label,)}


DATES = {
    "2024-01-15": "2024-01-15",
    "2024-01-15T23:30:00-05:00": "2024-01-15",
    "2024-01-15T14:30:00.123456Z": "2024-01-15",
    "2024-01-15T14:30:00+0000": "2024-01-15",
    "2024-01-15 09:30:00 EST": "2024-01-15",
    "2024-01-15 14:30 UTC": "2024-01-15",
    "2024/01/15": "2024-01-15",
    "2024.1.5 09:30": "2024-01-05",
    "20240115": "2024-01-15",
    "20240115T093000": "2024-01-15",
    "20240115T093000Z": "2024-01-15",
    "20240115093000": "2024-01-15",
    "202401150930": "2024-01-15",
    "Mon, 15 Jan 2024 23:30:00 -0500": "2024-01-15",
    "Mon Jan 15 09:30:00 +0000 2024": "2024-01-15",
    "Jan 15, 2024": "2024-01-15",
    "January 15th, 2024 9:30 AM ET": "2024-01-15",
    "15 January 2024": "2024-01-15",
    "15-JAN-2024": "2024-01-15",
    "7:51 PM ET Fri, 17 July 2020": "2020-07-17",
    "Sept. 5, 2023": "2023-09-05",
    "15-Jan-24": "2024-01-15",
    "Jan-15-24 09:30AM": "2024-01-15",
    "1705276800": "2024-01-15",
    "1705363199.5": "2024-01-15",
    "1705276800000": "2024-01-15",
    1705276800: "2024-01-15",
    1705363199.9: "2024-01-15",
    1705276800123: "2024-01-15",
    1705276800123456: "2024-01-15",
    1705276800123456789: "2024-01-15",
    np.int64(1705276800): "2024-01-15",
    # A moment that looks like a date of 1710 and a time
    1710050412345: "2024-03-10",
    pd.Timestamp("2024-01-15 23:30", tz="America/New_York"): "2024-01-15",
    np.datetime64("2024-01-15T10"): "2024-01-15",
    datetime(2024, 1, 15, 9, tzinfo=UTC): "2024-01-15",
    date(2024, 1, 15): "2024-01-15",
}


@pytest.mark.parametrize("value", DATES, ids=repr)
def test_dates_are_read_as_apis_write_them(value):
    """The local date as written; numbers count from 1970 in UTC."""
    assert read_day(value).isoformat() == DATES[value]


@pytest.mark.parametrize(
    "value",
    [
        *(
            "01/02/2018",
            "soon",
            "09:30AM",
            "2 hours ago",
            "2024-13-45",
            "31 Feb 2024",
            "May be later",
        ),
        *(20241315, 45306, 1.5, True, "12", "0", "99999999999999999999", [2024], "Q1 2024"),
        *("Acme was fined 15 million in January and again in May of the year 2024, it said.",),
    ],
)
def test_what_can_be_read_in_two_ways_is_no_date(value):
    """Numbers that count no time, day and month in either order, texts."""
    with pytest.raises(ValueError):
        read_day(value)


def read_text(**fields):
    (one,) = read_evidence([{"ticker": "ACME", **fields}]).documents
    return one.text, one.kind


def test_title_and_body_are_one_text():
    """The title is the first paragraph, so that offsets hold; what repeats it is not read twice."""
    body = "Acme lowered its forecast."
    for fields in (
        {"title": "Acme falls", "text": body},
        {"headline": " Acme\n falls ", "summary": f"  {body}\n"},
        {"title": "Acme falls", "text": f"Acme falls\n\n{body}"},
        {"title": "Acme falls", "content": "", "description": body},
        {"title": "Acme falls", "content": "Acme low... [+99 chars]", "description": body},
        {"title": "Acme falls", "content": body, "description": "Acme low"},
        {"title": {"rendered": "Acme falls"}, "content": {"rendered": f"<p>{body}</p>"}},
        {"title": "Acme falls", "body": [body]},
    ):
        assert read_text(**fields) == (f"Acme falls\n\n{body}", "news")
    assert read_text(title="Acme falls", summary="Acme falls") == ("Acme falls", "news")
    assert read_text(title="Acme falls", text="Acme falls on a fine.")[0].count("falls") == 2
    assert read_text(title="Acme falls", content=f"{body} It\u2026 [+99 chars]")[0] == (
        f"Acme falls\n\n{body} It"
    )
    assert read_text(title="Acme falls", description="[Removed]") == ("Acme falls", "news")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Fitch Upgrades Acme from BBB+ to A-; Outlook Stable", "news"),
        ("Acme Inc. Offers 3.5M Shares", "news"),
        ("U.S. Sues Acme", "news"),
        ("It was fined. It was sued.", "text"),
        ("Risk factors\nIt was fined.", "text"),
        ("Acme was fined " + "again and " * 40, "text"),
    ],
)
def test_a_short_text_is_a_headline(text, kind):
    """One sentence of one line, without a title: no word list decides over it."""
    assert read_text(text=text) == (text, kind)
    assert read_evidence({"ACME": [text]}).documents[0].kind == kind


def test_a_table_of_filings_holds_documents():
    """A long text is no news, whatever its title; its form and date are known."""
    (one,) = read_evidence(
        [
            {
                "symbol": "ACME",
                "title": "Acme 10-K",
                "text": "Item 1. Business.\nWe make anvils. " * 700,
                "form_type": "10-K",
                "filing_date": "2024-02-27",
            }
        ]
    ).documents
    assert (one.kind, one.form, one.date) == ("text", "10-K", date(2024, 2, 27))


MARKUP = {
    "<p>A regulator fined <b>Acme</b>.</p><p>It&nbsp;paid &#36;5&nbsp;million.</p>": (
        "A regulator fined Acme.\n\nIt paid $5 million."
    ),
    "AT&amp;T &quot;cuts&quot;": 'AT&T "cuts"',
    "Fined.<br/><br/>Sued.<script>var a = '<p>no</p>';</script> <style>p {}</style>": (
        "Fined.\n\nSued."
    ),
    'See <a href="https://news.test/?a=1&b=2">the filing</a>.': "See the filing.",
    "EPS <$1 and >$2, a<b and b>c": "EPS <$1 and >$2, a<b and b>c",
    "R&D and Q&A; AT&T": "R&D and Q&A; AT&T",
    "<|im_end|> </s> [INST]": "<|im_end|> </s> [INST]",
    "two  spaces\nand a line": "two  spaces\nand a line",
}


@pytest.mark.parametrize("text", MARKUP)
def test_html_is_read_to_text(text):
    """Tags and entities are gone; what only looks like them stays as it is."""
    assert read_markup(text).text == MARKUP[text]


def test_html_that_stands_alone_keeps_its_place():
    """A quote can be found in what was given, whatever tags stand in it."""
    page = "<p>A regulator fined Acme <b>$5&nbsp;million</b>.</p>"
    page += "<table><tr><td>Credit</td><td>4</td></tr><tr><td>Loans</td><td>1,204</td></tr></table>"
    for given in ({"ACME": page}, [{"ticker": "ACME", "text": page}]):
        (one,) = read_evidence(given).documents
        assert one.text == "A regulator fined Acme $5 million."
        assert page[one.find_origin(one.text.index("$")) :].startswith("$5&nbsp;million")


@pytest.mark.slow
def test_broken_html_takes_no_time():
    """Half a million characters of each kind, in proportion."""
    start = time.perf_counter()
    for piece in ("<p", "<p>", "<p <", "&amp;", "<script>", "<a href=", "</p ", "<!--", "&#x"):
        read_markup("<p>" + piece * (500_000 // len(piece)))
    assert time.perf_counter() - start < 20


def test_a_byte_order_mark_is_no_part_of_a_text():
    """It came from a file that somebody read."""
    assert read_text(text="\ufeffAcme was fined.")[0] == "Acme was fined."
    assert read_evidence({"ACME": "\ufeffAcme was fined."}).documents[0].text == "Acme was fined."
