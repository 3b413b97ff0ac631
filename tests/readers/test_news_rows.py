"""Rows that cannot be read, or that nobody asked for, are counted and named; the rest is read."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.news import read_evidence


def make_rows(count, **broken):
    """Rows 1 to `count`; `broken` maps "row3" to what its cells are instead."""
    rows = [
        {"ticker": "ACME", "title": f"Acme was fined {number} times", "date": "2024-01-15"}
        for number in range(1, count + 1)
    ]
    for name, cells in broken.items():
        rows[int(name.removeprefix("row")) - 1] |= cells
    return rows


def write_csv(rows, folder):
    pd.DataFrame(rows).to_csv(folder / "news.csv", index=False)
    return folder / "news.csv"


def write_json(rows, folder):
    (folder / "news.json").write_text(json.dumps(rows))
    return folder / "news.json"


FORMS = {
    "a list": lambda rows, _: rows,
    "a frame": lambda rows, _: pd.DataFrame(rows),
    "a CSV file": write_csv,
    "a JSON file": write_json,
    "a ticker's news": lambda rows, _: {"ACME": rows},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"date": "soon"}, "'soon' is not a date"),
        ({"date": "01/02/2018"}, "'01/02/2018' is not a date"),
        ({"title": ""}, "no text"),
        ({"title": None}, "no text"),
    ],
)
def test_a_broken_row_is_skipped_and_named(form, cells, reason, tmp_path):
    """One of four does not stop the file, whatever its form."""
    evidence = read_evidence(FORMS[form](make_rows(4, row3=cells), tmp_path))
    assert [one.text[-7:] for one in evidence.documents] == ["1 times", "2 times", "4 times"]
    (note,) = evidence.notes
    assert note.startswith("1 of 4 ")
    assert note.endswith(f"was skipped: {'row' if 'row 3' in note else 'item'} 3 ({reason}).")


def test_many_broken_rows_are_counted_and_ten_of_them_named():
    """A note stays short."""
    rows = make_rows(1000, **{f"row{number}": {"date": "soon"} for number in range(5, 405)})
    evidence = read_evidence(pd.DataFrame(rows))
    assert len(evidence.documents) == 600
    (note,) = evidence.notes
    assert note.startswith("400 of 1000 rows of the evidence were skipped: row 5 ('soon' is not")
    assert note.count("row ") == 10
    assert note.endswith("row 14 ('soon' is not a date) and 390 more.")


def test_where_most_rows_are_broken_the_columns_are_misread():
    """More than half of them: an error says what was seen."""
    rows = make_rows(4, row2={"date": "up"}, row3={"date": "down"}, row4={"date": "flat"})
    with pytest.raises(InputError, match=r"row 2: 'up' is not a date \(3 of 4 cannot") as caught:
        read_evidence(pd.DataFrame(rows))
    assert "pd.to_datetime" in caught.value.fix


@pytest.mark.parametrize("form", ["a list", "a frame", "a CSV file", "a JSON file"])
@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_row_without_a_ticker_counts_for_nobody(form, blank, tmp_path):
    """One in twenty is a hole, and named; more are an error: a ticker NA may have become NaN."""
    make = FORMS[form]
    evidence = read_evidence(make(make_rows(20, row7={"ticker": blank}), tmp_path))
    assert len(evidence.documents) == 19
    assert all(one.ticker == "ACME" for one in evidence.documents)
    assert evidence.notes[0].endswith("7 (no ticker).")
    few = make(make_rows(19, row7={"ticker": blank}), tmp_path)
    with pytest.raises(InputError, match=r"(row|item) 7 has no ticker"):
        read_evidence(few)


def test_a_missing_ticker_may_be_the_company_na():
    """Where the cell or the prices name NA, a NaN is an error, however few there are."""
    frame = pd.DataFrame(make_rows(100, row7={"ticker": math.nan}))
    assert len(read_evidence(frame, tickers=["ACME"]).documents) == 99
    for names in ({"tickers": ["ACME", "NA"]}, {"tickers": ["ACME"], "known": ["na"]}):
        with pytest.raises(InputError, match="row 7 has no ticker") as caught:
            read_evidence(frame, **names)
        assert "keep_default_na=False" in caught.value.fix


def test_an_empty_list_of_tickers_is_about_no_company():
    """General news has one: it is counted, and no error. A NaN is no empty list."""
    rows = [{"title": f"Rates rose {number} times", "symbols": []} for number in range(8)]
    rows += [{"title": "Acme was fined", "symbols": ["ACME"]}]
    evidence = read_evidence(rows)
    assert [one.ticker for one in evidence.documents] == ["ACME"]
    assert evidence.notes == ("8 rows of the evidence named no company and were skipped.",)
    with pytest.raises(InputError, match="no item of the evidence names a company"):
        read_evidence(rows[:8])
    with pytest.raises(InputError, match="has no ticker"):
        read_evidence(pd.DataFrame({"title": ["a", "b"], "symbols": ["ACME", math.nan]}))


def test_documents_about_other_tickers_are_counted_and_named():
    """A renamed company is seen: its news stand under the old name."""
    rows = [
        {"ticker": ticker, "title": f"{ticker} was fined {number} times"}
        for ticker, count in {"FB": 3, "TWTR": 1, "META": 2, "*": 1}.items()
        for number in range(count)
    ]
    evidence = read_evidence(rows, tickers=["META"])
    assert len(evidence.documents) == 7
    assert evidence.notes == (
        "4 documents are about tickers that are not in the cell: FB (3), TWTR (1).",
    )
    assert read_evidence(rows[3:], tickers=["META"]).notes == (
        "1 document is about a ticker that is not in the cell: TWTR (1).",
    )
    assert read_evidence(rows).notes == ()
    assert read_evidence({"FB": ["Fined."], "META": "Sued."}, tickers=["META"]).notes == (
        "1 document is about a ticker that is not in the cell: FB (1).",
    )


def test_an_article_that_is_about_a_company_of_the_cell_is_used():
    """Its other companies are no loss."""
    rows = [
        {"title": "Acme sues Emca", "symbols": ["ACME", "EMCA"]},
        {"title": "Emca sues Ecma", "symbols": ["EMCA", "ECMA"]},
    ]
    assert read_evidence(rows, tickers=["ACME"]).notes == (
        "2 documents are about tickers that are not in the cell: ECMA (1), EMCA (1).",
    )


@pytest.mark.parametrize(
    ("written", "cell"),
    [
        *((name, "ACME") for name in ("ACME.US", "NASDAQ:ACME", "NYSE: ACME", "ACME US Equity")),
        *((name, "ACME") for name in ("ACME.O", "ACME.N", "ACME UW Equity", "US:ACME")),
        *(("ACME", cell) for cell in ("ACME US Equity", "NASDAQ:ACME")),
    ],
)
def test_the_name_of_a_us_exchange_is_no_part_of_a_ticker(written, cell):
    """Where the cell has the ticker without it, or the other way round; a note says so."""
    evidence = read_evidence([{"ticker": written, "title": "Acme was fined"}], tickers=[cell])
    assert [one.ticker for one in evidence.documents] == [cell]
    seen = written.upper()
    assert evidence.notes == (
        f"Tickers with the name of an exchange were read without it: {seen} as {cell} (1)."
        if cell == "ACME"
        else f"Tickers with the name of an exchange were read without it: ACME as {cell} (1).",
    )


@pytest.mark.parametrize(
    ("written", "cell"),
    [("TSX:T", "T"), ("CRYPTO:BTC", "BTC"), ("ACME.TO", "ACME"), ("BRK.B", "BRK.A")],
)
def test_another_listing_is_another_ticker(written, cell):
    """T of Toronto is not T of New York."""
    evidence = read_evidence([{"ticker": written, "title": "It was fined"}], tickers=[cell])
    assert [one.ticker for one in evidence.documents] == [written]
    assert "not in the cell" in evidence.notes[0]


def test_what_the_cell_or_the_prices_name_is_a_ticker():
    """Another form than that of a stock does not refuse a run; a name of nobody is skipped."""
    rows = [
        {"ticker": ticker, "title": f"{ticker} fell"}
        for ticker in ("s&p@500", "es+1", "ACME", "a@b")
    ]
    evidence = read_evidence(rows, tickers=["ACME", "ES+1"], known=["S&P@500"])
    assert {one.ticker for one in evidence.documents} == {"S&P@500", "ES+1", "ACME"}
    assert evidence.notes[0] == (
        "1 of 4 items of the evidence was skipped: item 4 ('a@b' is not a ticker)."
    )
    assert len(read_evidence(rows, tickers=["ACME"]).documents) == 1
    with pytest.raises(InputError, match="'a@b' is not a ticker"):
        read_evidence(rows[3:], tickers=["ACME"])


def test_news_of_several_companies_are_not_those_of_one():
    """A column of names says that the rows are not all about the ticker of the cell."""
    rows = [{"company": "Acme", "title": "Acme fell"}, {"company": "Emca", "title": "Emca fell"}]
    with pytest.raises(InputError, match="no column 'ticker'"):
        read_evidence(pd.DataFrame(rows), tickers=["ACME"])
    with pytest.raises(InputError, match="item 1 has no ticker"):
        read_evidence(rows, tickers=["ACME"])
    texts = read_evidence(["Acme fell", "Acme rose"], tickers=["ACME"])
    assert [one.ticker for one in texts.documents] == ["ACME", "ACME"]
    assert texts.notes == ("The evidence names no ticker; it counts for ACME.",)


def test_a_row_that_repeats_another_counts_once():
    """The same ticker, text and date; another date is another row."""
    rows = [*make_rows(2), *make_rows(2), *make_rows(1, row1={"date": "2024-01-16"})]
    rows[0]["source"] = "Wire"
    evidence = read_evidence(rows)
    assert [one.id for one in evidence.documents] == ["E1", "E2", "E3"]
    assert evidence.notes == (
        "2 documents were left out: another one has the same ticker, text and date.",
    )
    assert evidence.documents == read_evidence(rows[::-1]).documents


def test_an_article_that_was_changed_keeps_both_forms():
    """An API sends it again with the same id; ids of other texts must differ."""
    rows = [
        {"id": 7, "symbols": ["ACME", "EMCA"], "title": "Acme was fined"},
        {"id": 7, "symbols": ["ACME"], "title": "Acme was fined again"},
    ]
    assert [(one.id, one.ticker) for one in read_evidence(rows).documents] == [
        ("E1", "ACME"),
        ("7", "EMCA"),
        ("E2", "ACME"),
    ]


def test_columns_that_are_not_used_are_named():
    """Those with something in them, in their order, ten at most; a counter of rows is none."""
    frame = pd.DataFrame(make_rows(2)).assign(author="A. Writer", empty=None, **{"a\nb": 1})
    frame.insert(0, "Unnamed: 0", [5, 6])
    assert read_evidence(frame).notes == (
        "Columns of the evidence that were not used: author, a b.",
    )
    many = frame[["ticker", "title"]].assign(**{f"tag{number}": 1 for number in range(13)})
    (note,) = read_evidence(many).notes
    assert note.endswith("tag8, tag9 and 3 more.")


def test_a_field_of_which_another_name_is_used_is_named():
    """A summary is not used where there is a text; where there is none, it is."""
    row = {"ticker": "ACME", "text": "It was fined.", "summary": "A fine."}
    assert read_evidence([row]).notes == ("Columns of the evidence that were not used: summary.",)
    assert read_evidence([row, {**row, "text": None}]).notes == ()


def test_broken_lines_of_a_file_are_skipped(tmp_path):
    """One in twenty: the end of a download that broke off."""
    lines = [json.dumps(row) for row in make_rows(20)]
    path = tmp_path / "news.jsonl"
    path.write_text("\n".join([*lines[:-1], lines[-1][:-9]]))
    evidence = read_evidence(path)
    assert len(evidence.documents) == 19
    assert evidence.notes == ("1 of 20 items of the evidence was skipped: item 20 (not JSON).",)
    path.write_text("\n".join([*lines[:10], lines[-1][:-9]]))
    with pytest.raises(InputError, match=r"news\.jsonl, line 11: not JSON"):
        read_evidence(path)


def test_uneven_rows_of_a_file_are_skipped(tmp_path):
    """One in twenty: a comma in a title without quotes. Nobody can tell which field is whose."""
    lines = [",".join(row.values()) for row in make_rows(40)]
    lines[16] = "ACME,Acme falls, says Wire,2024-01-15"
    lines[30] = "ACME,Acme falls"
    lines[20] += ","
    path = tmp_path / "news.csv"
    path.write_text("\n".join(["ticker,title,date", *lines]))
    evidence = read_evidence(path)
    assert len(evidence.documents) == 38
    (note,) = evidence.notes
    assert note == (
        "2 of 40 rows of the evidence were skipped: row 17 (4 fields, where the header has 3), "
        "row 31 (2 fields, where the header has 3)."
    )
    path.write_text("\n".join(["ticker,title,date", *lines[:33]]))
    with pytest.raises(InputError, match=r"news\.csv, line 18: 4 fields, where the header has 3"):
        read_evidence(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_json_in_other_encodings_is_read(tmp_path, encoding):
    """A byte order mark is no part of the text."""
    path = tmp_path / "news.json"
    text = json.dumps(
        make_rows(1, row1={"title": "Acme \u00e9tait condamn\u00e9e \u00e0 Z\u00fcrich"}),
        ensure_ascii=False,
    )
    path.write_bytes(text.encode(encoding))
    (one,) = read_evidence(path).documents
    assert one.text == "Acme \u00e9tait condamn\u00e9e \u00e0 Z\u00fcrich"


def test_nesting_without_end_is_a_broken_row(tmp_path):
    """A list in a list 5,000 times costs its own row alone; so do answers in answers."""
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for cells in ({"symbols": deep, "ticker": None}, {"title": deep}):
        evidence = read_evidence(make_rows(4, row3=cells))
        assert evidence.notes[0].endswith("item 3 (its lists are nested too deep).")
    wrapped = "[]"
    for _ in range(400):
        wrapped = f'{{"response": {wrapped}}}'
    (tmp_path / "news.json").write_text(wrapped)
    with pytest.raises(InputError):
        read_evidence(tmp_path / "news.json")


def test_blank_rows_at_the_end_of_a_sheet_are_nothing():
    """They are no broken rows, however many there are."""
    rows = [*make_rows(2), *[dict.fromkeys(("ticker", "title", "date"))] * 9]
    evidence = read_evidence(pd.DataFrame(rows))
    assert len(evidence.documents) == 2
    assert evidence.notes == ()


def test_a_column_twice_is_refused():
    """Nobody can tell which one is meant."""
    frame = pd.DataFrame([["ACME", "a", "b"]], columns=["ticker", "text", "text"])
    with pytest.raises(InputError, match="the column 'text' more than once") as caught:
        read_evidence(frame)
    assert "duplicated" in caught.value.fix
