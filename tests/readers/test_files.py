"""
Files of prices and evidence: each readable form is read, each unreadable one is an error that names
the file.
"""

import csv
import json
import os
from io import StringIO

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urisk_nb.errors import InputError
from urisk_nb.readers.files import read_frame, read_json
from urisk_nb.readers.news import read_evidence
from urisk_nb.readers.prices import read_prices


def read_documents(given, **options):
    return read_evidence(given, **options).documents


@pytest.fixture
def frame():
    return pd.DataFrame({"date": ["2024-01-02", "2024-01-03"], "NVDA": [1.0, 2.0]})


def test_csv_tsv_and_parquet_hold_the_same_prices(tmp_path, frame):
    """
    The kind of file changes nothing.
    """
    frame.to_csv(tmp_path / "p.csv", index=False)
    frame.to_csv(tmp_path / "p.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.tsv", "p.parquet"):
        pd.testing.assert_frame_equal(read_frame(tmp_path / name), frame)
        assert list(read_prices(str(tmp_path / name)).close) == ["NVDA"]


def test_evidence_keeps_tickers_that_look_like_something_else(tmp_path):
    """
    NA stays a ticker and 0700 keeps its zero.
    """
    (tmp_path / "e.csv").write_text("ticker,text\nNA,first\n0700.HK,second\n0700,third\n")
    assert list(read_frame(tmp_path / "e.csv", text=True)["ticker"]) == ["NA", "0700.HK", "0700"]


def test_json_lines_and_a_json_array_are_the_same(tmp_path):
    """
    One object a line, or one array.
    """
    rows = [{"ticker": "A", "text": "x\u2028y"}, {"ticker": "B", "text": "z"}]
    (tmp_path / "e.jsonl").write_text(
        "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )
    (tmp_path / "e.json").write_text(json.dumps(rows, indent=1))
    assert read_json(tmp_path / "e.jsonl") == read_json(tmp_path / "e.json") == rows


def write(name, content):
    def make(folder):
        path = folder / name
        path.write_bytes(content)
        return path

    return make


READ = {"prices": read_prices, "evidence": read_documents}
BAD = [
    ("prices", write("empty.csv", b""), "empty.csv"),
    ("prices", write("words.xlsx", b"PK"), "words.xlsx"),
    ("prices", write("old.xls", b"\xd0\xcf\x11\xe0"), ".xls"),
    ("prices", write("none", b"x"), "(none)"),
    ("prices", write("broken.parquet", b"nonsense"), "broken.parquet"),
    ("prices", write("zeros.csv", b"\0\1\0\0\2binary"), "zeros.csv"),
    ("prices", write("ragged.csv", b"a,b\n1,2\n1,2,3\n"), "ragged.csv"),
    ("evidence", write("bad.jsonl", b'{"ticker": "A", "text": "x"}\n{oops}\n'), "line 2"),
    ("evidence", write("number.jsonl", b"3\n"), "not an object"),
    ("evidence", write("empty.json", b"\xef\xbb\xbf\n"), "empty.json is empty"),
    ("evidence", write("deep.json", b"[" * 100_000), "deep.json, line 1: not JSON"),
    ("evidence", write("long.json", b"[" + b"1" * 5000 + b"]"), "long.json, line 1: not JSON"),
    (
        "evidence",
        write("cut.json", b'[{"ticker": "A",\n "text": "x"},\n {"tick'),
        "line 3: not JSON",
    ),
    ("evidence", write("zeros.jsonl", b"\0\1\0\0\2binary"), "zeros.jsonl"),
    ("evidence", lambda folder: folder, "no .txt"),
    ("prices", lambda folder: folder / "nowhere.csv", "no file or folder"),
    ("evidence", lambda folder: "The company was fined. " * 500, "no file or folder"),
    ("prices", lambda folder: folder / "x\0y.csv", "no file or folder"),
]


@pytest.mark.parametrize(("kind", "make", "seen"), BAD)
def test_what_cannot_be_read_is_named(tmp_path, kind, make, seen):
    """
    The error says which file and what to do.
    """
    with pytest.raises(InputError) as caught:
        READ[kind](make(tmp_path))
    assert seen in caught.value.message
    assert caught.value.fix


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path):
    """
    A file that may not be read is an error of ours.
    """
    path = write("secret.csv", b"a\n1\n")(tmp_path)
    path.chmod(0)
    with pytest.raises(InputError, match=r"secret\.csv"):
        read_prices(path)


DAYS = pd.DataFrame(
    {"Day": ["2023-01-02", "2023-01-03"], "AAPL": [150.0, 151.0], "MSFT": [380.0, 379.0]}
)
TRAILING = {
    "in each row": "Day,AAPL,MSFT\n2023-01-02,150.0,380.0,\n2023-01-03,151.0,379.0,\n",
    "in one row": "Day,AAPL,MSFT\n2023-01-02,150.0,380.0\n2023-01-03,151.0,379.0,\n",
    "in header and rows": "Day,AAPL,MSFT,\n2023-01-02,150.0,380.0,\n2023-01-03,151.0,379.0,\n",
    "in the header": "Day,AAPL,MSFT,,\n2023-01-02,150.0,380.0\n2023-01-03,151.0,379.0\n",
    "several": "Day,AAPL,MSFT\n2023-01-02,150.0,380.0,,,\n2023-01-03,151.0,379.0, ,\n",
    "after quotes": (
        '"Day","AAPL","MSFT"\n"2023-01-02","150.0","380.0",""\n"2023-01-03","151.0","379.0",\n'
    ),
    "with a byte order "
    "mark": "\ufeffDay,AAPL,MSFT\r\n2023-01-02,150.0,380.0,\r\n\r\n2023-01-03,151.0,379.0,\r\n",
}


@pytest.mark.parametrize("case", TRAILING)
@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_a_separator_at_the_end_of_a_row_moves_no_column(tmp_path, case, name):
    """
    Fields stand under the header from the left: each ticker has its own prices.
    """
    text = TRAILING[case] if name == "p.csv" else TRAILING[case].replace(",", "\t")
    (tmp_path / name).write_bytes(text.encode())
    read = read_frame(tmp_path / name)
    pd.testing.assert_frame_equal(read, DAYS)
    close = read_prices(read).close
    assert close.loc["2023-01-03"].to_dict() == {"AAPL": 151.0, "MSFT": 379.0}


@pytest.mark.parametrize("kind", ["prices", "evidence"])
@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (
            "Day,AAPL\n2023-01-02,150.0\n2023-01-03,151.0,379.0\n",
            "line 3: 3 fields, where the header has 2",
        ),
        ('Day,AAPL\n"2023\n-01-02",150.0\n\n2023-01-03,151.0,379.0,\n', "line 5: 4 fields"),
        (
            "AAPL,MSFT\n2023-01-02,150.0,380.0\n2023-01-03,151.0,379.0\n",
            "line 2: 3 fields, where the header has 2",
        ),
        ("Day;AAPL;MSFT\n2023-01-02;150,5;380,1;7\n", "line 2: 4 fields, where the header has 3"),
    ],
)
def test_a_row_longer_than_the_header_is_refused(tmp_path, kind, text, seen):
    """
    Nobody can tell which field is whose: the line is named, in prices and in evidence.
    """
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        READ[kind](tmp_path / "p.csv")
    assert f"p.csv, {seen}" in caught.value.message
    assert "header" in caught.value.fix


@pytest.mark.parametrize("kind", ["prices", "evidence"])
@pytest.mark.parametrize("name", ["p.csv", "p.txt", "p.tsv"])
@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_any_separator_is_found(tmp_path, kind, name, sign):
    """The header shows it, whatever the type of the file says."""
    header, row = {
        "prices": (["Day", "AAPL", "MSFT"], ["2023-01-02", "150.5", "380"]),
        "evidence": (["ticker", "text"], ["NVDA", '"Fined; sued, split\tand more | less."']),
    }[kind]
    text = f"{sign.join(header)}\n{sign.join(row)}\n"
    (tmp_path / name).write_text(text)
    read = READ[kind](tmp_path / name)
    if kind == "prices":
        assert read.close.iloc[0].to_dict() == {"AAPL": 150.5, "MSFT": 380}
    else:
        assert [one.text for one in read] == ["Fined; sued, split\tand more | less."]
    if sign != ",":
        with pytest.raises(InputError) as caught:
            READ[kind](pd.read_csv(StringIO(text)))
        assert f"sep={sign!r}" in caught.value.fix
    assert READ[kind](pd.read_csv(StringIO(text), sep=sign))


COUNTED = {
    "an index that counts": ",Day,AAPL\n0,2023-01-02,150.0\n1,2023-01-03,151.0\n",
    "rows that were filtered": ",Day,AAPL\n4,2023-01-02,150.0\n9,2023-01-03,151.0\n",
    "beside a date": ",date,AAPL\n0,2023-01-02,150.0\n1,2023-01-03,151.0\n",
    "long prices": ",Day,ticker,close\n0,2023-01-02,AAPL,150.0\n1,2023-01-03,AAPL,151.0\n",
}


@pytest.mark.parametrize("case", COUNTED)
def test_an_index_that_counts_is_no_date(tmp_path, case):
    """to_csv() writes it before the column of dates: it is neither a date nor a ticker."""
    (tmp_path / "p.csv").write_text(COUNTED[case])
    for source in (tmp_path / "p.csv", pd.read_csv(StringIO(COUNTED[case]))):
        close = read_prices(source).close
        assert list(close.columns) == ["AAPL"]
        assert close["AAPL"].to_dict() == {
            pd.Timestamp("2023-01-02"): 150.0,
            pd.Timestamp("2023-01-03"): 151.0,
        }


SHORT = {
    "a price left out": ("prices", "Day,AAPL,MSFT\n2023-01-02,1,2\n2023-01-03,2\n", "3: 2 fields"),
    "the first row": ("prices", "Day,AAPL,MSFT\n2023-01-02,2\n2023-01-03,1,2\n", "2: 2 fields"),
    "a foot line": ("prices", "Day,AAPL\n2023-01-02,1\n\nfrom a site\n", "4: 1 field,"),
    "a header that goes on": ("prices", "Day,A,B,,\n2023-01-02,1,2\n2023-01-03,1\n", "3: 2 fields"),
    "two widths": ("prices", "Day,A,B,C\n2023-01-02,1,2\n2023-01-03,1\n", "3: 2 fields"),
    "long prices": (
        "prices",
        "date,ticker,close,volume\n2023-01-02,A,1,2\n2023-01-03,A,2\n",
        "3: 3 fields, where the header has 4",
    ),
    "a text left out": ("evidence", "ticker,text\nA,x\nB\n", "3: 1 field,"),
    "an id left out": ("evidence", "id,ticker,text\n1,A,x\nA,x\n", "3: 2 fields"),
    "a source for the date": (
        "evidence",
        "ticker,text,date,source\nA,x,2023-01-02,wire\nA,x,wire\n",
        "3: 3 fields, where the header has 4",
    ),
    "a date for the source": (
        "evidence",
        "ticker,text,source,date\nA,x,wire,2023-01-02\nA,x,2023-01-03\n",
        "3: 3 fields, where the header has 4",
    ),
}


@pytest.mark.parametrize("case", SHORT)
def test_a_row_shorter_than_others_is_refused(tmp_path, case):
    """Nobody can tell which field is missing: the line is named, before a value moves."""
    kind, text, seen = SHORT[case]
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        READ[kind](tmp_path / "p.csv")
    assert f"p.csv, line {seen}" in caught.value.message
    assert "missing field" in caught.value.fix


def test_an_empty_field_is_no_missing_one(tmp_path):
    """A separator that stands says where the hole is."""
    (tmp_path / "p.csv").write_text("Day,AAPL,MSFT\n2023-01-02,1,2\n2023-01-03,,5\n2023-01-04,3,\n")
    close = read_prices(tmp_path / "p.csv").close
    assert close["AAPL"].isna().tolist() == [False, True, False]
    assert close["MSFT"].isna().tolist() == [False, False, True]


def test_a_column_that_no_row_fills_is_empty(tmp_path):
    """All rows are alike, so no value moved among them."""
    (tmp_path / "p.csv").write_text("Day,AAPL,MSFT\n2023-01-02,1\n2023-01-03,2\n")
    close = read_prices(tmp_path / "p.csv").close
    assert close["AAPL"].tolist() == [1.0, 2.0]
    assert close["MSFT"].isna().all()


def test_evidence_may_leave_out_its_last_columns(tmp_path):
    """A row of ticker and text is whole, and so is one that ends in its date."""
    (tmp_path / "e.csv").write_text(
        "ticker,text,date,source\nA,x,2023-01-02,wire\nA,y\nA,z,2023-01-03\n"
    )
    found = {one.text: (str(one.date), one.source) for one in read_documents(tmp_path / "e.csv")}
    assert found == {
        "x": ("2023-01-02", "wire"),
        "y": ("None", None),
        "z": ("2023-01-03", None),
    }


def test_evidence_rows_that_end_in_a_separator_keep_their_columns(tmp_path):
    """
    Text, ticker and line ends of a document stay as they are, also in a field of more than 131,072
    characters.
    """
    long = "It was fined. " * 10_000
    (tmp_path / "e.csv").write_text(
        f'ticker,text\nNA,"first, with\r\nlines",\nB,"{long}",\n', newline=""
    )
    read = read_frame(tmp_path / "e.csv", text=True)
    assert read.to_dict("list") == {"ticker": ["NA", "B"], "text": ["first, with\r\nlines", long]}


def test_what_to_csv_writes_is_read_back(tmp_path):
    """
    An index without a name is a column without a name, and the dates.
    """
    frame = DAYS.set_index(pd.DatetimeIndex(DAYS["Day"], name=None)).drop(columns="Day")
    frame.to_csv(tmp_path / "p.csv")
    close = read_prices(tmp_path / "p.csv").close
    assert close.to_numpy().tolist() == frame.to_numpy().tolist()
    assert list(close.index) == list(frame.index)


def test_long_prices_keep_tickers_that_look_like_something_else(tmp_path):
    """
    NA is no missing value and 0700 no number where they are tickers; in the other columns they are.
    """
    (tmp_path / "p.csv").write_text("date,Ticker,close\n2023-01-02,NA,1\n2023-01-02,0700,NA\n")
    close = read_prices(tmp_path / "p.csv").close
    assert list(close.columns) == ["NA", "0700"]
    assert close["NA"].tolist() == [1.0]
    assert close["0700"].isna().all()


NO_TICKER = {
    "a CSV": write("e.csv", b"ticker,text\nNA,first\n,second\n"),
    "JSON lines": write("e.jsonl", b'{"ticker": "NA", "text": "first"}\n{"text": "second"}\n'),
    "a JSON array": write(
        "e.json", b'[{"ticker": "NA", "text": "first"}, {"ticker": null, "text": "second"}]'
    ),
    "a callable": lambda folder: (
        lambda tickers: pd.DataFrame({"ticker": ["NA", None], "text": ["first", "second"]})
    ),
}


@pytest.mark.parametrize("case", NO_TICKER)
def test_evidence_without_a_ticker_is_refused_wherever_it_comes_from(tmp_path, case):
    """
    The second row, never the one whose ticker is NA.
    """
    given = NO_TICKER[case](tmp_path)
    with pytest.raises(InputError, match=r"evidence, (row|item) 2 has no ticker"):
        read_documents(given, tickers=["NA"])


CELLS = st.text(alphabet='ab1.-é"\t,\n ', max_size=6)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5),
    ends=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    name=st.sampled_from(["e.csv", "e.tsv"]),
)
def test_any_table_reads_as_it_was_written(tmp_path_factory, rows, ends, name):
    """
    Whatever the fields hold, and however many separators follow which row, each stays in its place.
    """
    separator = "," if name == "e.csv" else "\t"
    lines = []
    for row, more in zip([["ticker", "text", "source"], *rows], ends, strict=False):
        line = StringIO()
        csv.writer(line, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="").writerow(
            row
        )
        lines.append(line.getvalue() + separator * more)
    path = tmp_path_factory.mktemp("table") / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    assert read_frame(path, text=True).to_numpy().tolist() == rows
