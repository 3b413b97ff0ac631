"""What people hand over is read once, as it was meant, or refused with a way out."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import (
    Document,
    Holding,
    RiskParams,
    alpha_label,
    closest,
    documents_for,
    parse_tickers,
    read_evidence,
    read_prices,
    resolve,
    scaled,
)

DAYS = pd.bdate_range("2024-01-01", periods=4, name="date")


def wide(**columns):
    return pd.DataFrame(columns or {"AAA": [1.0, 2.0, 3.0, 4.0]}, index=DAYS)


def long(dates=("2024-01-01", "2024-01-02") * 2, tickers=("AAA", "AAA", "BBB", "BBB"), close=(1.0, 2.0, 3.0, 4.0), **more):
    return pd.DataFrame({"date": list(dates), "ticker": list(tickers), "close": list(close), **more})


def dated(values, name="date"):
    return pd.DataFrame({name: values, "AAA": np.arange(1.0, 1 + len(values))})


def symbols(tickers):
    return [holding.symbol for holding in parse_tickers(tickers)]


# --- tickers ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVDA, MSFT\nAAPL  AMZN", ["NVDA", "MSFT", "AAPL", "AMZN"]),
        ("nvda", ["NVDA"]),
        ("NVDA # chips, GPU=1\n# MSFT\n\nAAPL", ["NVDA", "AAPL"]),
        ("BRK.B BRK-A BRK/B ^GSPC 0700.HK BTC-USD EURUSD=X M&M.NS ES=F US10YT=RR EUR= EURUSD=", None),
        ("AAPL US Equity\nSPX Index", ["AAPL US EQUITY", "SPX INDEX"]),
        ("AAPL US Equity=0.5, EUR  Curncy\nMSFT AAPL", ["AAPL US EQUITY", "EUR CURNCY", "MSFT", "AAPL"]),
        (
            "\N{FULLWIDTH LATIN CAPITAL LETTER N}VDA\N{NO-BREAK SPACE}MSFT\N{FULLWIDTH COMMA}A\N{ZERO WIDTH SPACE}APL",
            ["NVDA", "MSFT", "AAPL"],
        ),
        ("\N{BYTE ORDER MARK}NVDA", ["NVDA"]),
    ],
)
def test_cell_text_becomes_tickers(text, expected):
    """Commas, white space, comments, terminal names and full-width signs are read as people write them."""
    assert symbols(text) == (expected or text.split())


@pytest.mark.parametrize(
    ("text", "symbol", "weight"),
    [
        ("NVDA=0.4", "NVDA", 0.4),
        ("NVDA = 0.4", "NVDA", 0.4),
        ("NVDA= -.4", "NVDA", -0.4),
        ("NVDA=\N{MINUS SIGN}1e-1", "NVDA", -0.1),
        ("EURUSD=X=0.4", "EURUSD=X", 0.4),
        ("AAPL US Equity = 2", "AAPL US EQUITY", 2),
        ("0700.HK=0", "0700.HK", 0),
        ("EURUSD=X", "EURUSD=X", None),
    ],
)
def test_a_weight_follows_the_last_equals_sign(text, symbol, weight):
    """A number after the last "=" is the weight; letters there belong to the name."""
    assert parse_tickers(text) == (Holding(symbol=symbol, weight=weight),)


@pytest.mark.parametrize(
    "tickers",
    [
        "NVDA=0.4, BRK.B=0.6",
        ["NVDA=0.4", "BRK.B = 0.6"],
        [("NVDA", 0.4), ("BRK.B", 0.6)],
        {"nvda": 0.4, "BRK.B": 0.6},
        {"NVDA": "0.4", "BRK.B": Decimal("0.6")},
        pd.Series([0.4, 0.6], index=["NVDA", "BRK.B"]),
        pd.Series(["NVDA=0.4", "BRK.B=0.6"]),
        np.array(["NVDA=0.4", "BRK.B=0.6"]),
        (text for text in ("NVDA=0.4", "BRK.B=0.6")),
    ],
)
def test_every_shape_of_list_means_the_same(tickers):
    """Text, lists, pairs, mappings and Series give the same holdings."""
    assert parse_tickers(tickers) == (Holding(symbol="NVDA", weight=0.4), Holding(symbol="BRK.B", weight=0.6))


def test_a_set_gives_one_order():
    """A set has no order: its holdings come sorted, in every process."""
    names = [f"T{number}" for number in range(10, 40)]
    assert symbols(set(names)) == names


def test_a_duplicate_keeps_its_first_line():
    """The first line counts, and the holding says that there was another."""
    assert parse_tickers("NVDA=0.4, nvda=0.5") == (Holding(symbol="NVDA", weight=0.4, flags=("duplicate",)),)


def test_a_missing_weight_beside_others_is_said():
    """Where some have a weight, one without is flagged; where none has, nothing is."""
    assert parse_tickers("NVDA=0.4, MSFT")[1].flags == ("no_weight",)
    assert parse_tickers("NVDA, MSFT")[1].flags == ()


def test_scaled_weights_sum_to_one():
    """Scaling divides by the sum, shorts included."""
    assert [one.weight for one in scaled(parse_tickers("A=3, B=-1"))] == [1.5, -0.5]


BAD_TICKERS = {
    "nothing": ("", "there is no ticker", "NVDA=0.4"),
    "only a comment": ("# later", "there is no ticker", "NVDA=0.4"),
    "an empty list": ([], "there is no ticker", "NVDA=0.4"),
    "a path": ("NVDA\n../../etc/passwd", "line 2: '../../etc/passwd'", "commas"),
    "a dollar sign": ("$NVDA", "'$NVDA'", "did you mean NVDA?"),
    "an emoji": ("NVDA\N{ROCKET}", "is not a ticker", "did you mean NVDA?"),
    "a NUL": ("NVDA\x00", r"'NVDA\x00'", "did you mean NVDA?"),
    "a script": ("<script>alert(1)</script>", "'<script>alert(1)</script>'", "commas"),
    "semicolons": ("NVDA;MSFT", "'NVDA;MSFT'", "separate tickers by commas"),
    "far too long": ("A" * 31, "is not a ticker", "commas"),
    "a novel": ("A" * 100_000, "AAA...'", "commas"),
    "a weight in words": ("NVDA=half", "line 1: the weight 'half' of 'NVDA'", "NVDA=0.4"),
    "a weight in percent": ("NVDA=25%", "'25%'", "NVDA=0.25"),
    "no weight after =": ("NVDA=", "the weight ''", "NVDA=0.4"),
    "an infinite weight": ("NVDA=inf", "'inf'", "NVDA=0.4"),
    "a weight beyond floats": ("NVDA=1e999", "'1e999'", "NVDA=0.4"),
    "a decimal comma": ("NVDA=0,4", "decimal comma", "0.4"),
    "two weights": ("NVDA=1=2", "two weights", "NVDA=2"),
    "a weight without =": ("NVDA 0.4", "'0.4' looks like a weight", "NVDA=0.4"),
    "a weight without a name": ("=0.4", "''", "NVDA=0.4"),
    "a number in a list": (["NVDA", 700], "item 2: 700 is an int", '"700"'),
    "None in a list": ([None], "item 1: None", "NVDA=0.4"),
    "None": (None, "a NoneType", "NVDA=0.4"),
    "bytes": (b"NVDA", "a bytes", "NVDA=0.4"),
    "a frame": (pd.DataFrame({"ticker": ["A"]}), "a DataFrame", "dict(zip("),
    "a mapping to words": ({"NVDA": "half"}, "'half'", "NVDA=0.4"),
    "a mapping to NaN": ({"NVDA": math.nan}, "nan", "NVDA=0.4"),
    "a mapping to True": ({"NVDA": True}, "True", "NVDA=0.4"),
    "a mapping to a list": ({"NVDA": [1]}, "[1]", "NVDA=0.4"),
    "a mapping from numbers": ({700: 0.5}, "700 is an int", '"700"'),
    "a Series of words": (pd.Series(["half"], index=["NVDA"]), "'half'", "NVDA=0.4"),
}


@pytest.mark.parametrize("case", BAD_TICKERS)
def test_bad_tickers_are_refused(case):
    """The message says where and what was seen, the fix what to write."""
    given_tickers, seen, fix = BAD_TICKERS[case]
    with pytest.raises(InputError) as caught:
        parse_tickers(given_tickers)
    assert seen in caught.value.message
    assert fix in caught.value.fix
    assert len(str(caught.value)) < 300


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_text_gives_safe_symbols_or_an_input_error(text):
    """Whatever is typed, a symbol is upper case, without path parts that lead upwards from the start, and short; or it is refused."""
    try:
        holdings = parse_tickers(text)
    except InputError:
        return
    for holding in holdings:
        assert holding.symbol == holding.symbol.upper()
        assert 0 < len(holding.symbol) <= 30
        assert not holding.symbol.startswith(("/", "."))
        assert not set(holding.symbol) & set("<>\\\"'`$;|\x00\n")


# --- names ---


@pytest.mark.parametrize(
    ("symbol", "columns", "expected"),
    [
        ("BRK.B", ["BRK.B", "BRK-B"], ("BRK.B", ())),
        ("NVDA", ["nvda", "MSFT"], ("nvda", ("alias",))),
        ("BRK.B", ["BRK-B"], ("BRK-B", ("alias",))),
        ("BRK/B", ["brk.b"], ("brk.b", ("alias",))),
        ("BRK.B", ["BRK B", "BRKB"], (None, ())),
        ("BTC-USD", ["BTC.USD"], (None, ())),
        ("GOOG", ["GOOGL"], (None, ())),
    ],
)
def test_resolution_is_exact_then_by_case_then_by_share_class(symbol, columns, expected):
    """Only what is surely the same name matches; a lookalike does not."""
    assert resolve(symbol, columns) == expected


@pytest.mark.parametrize(("symbol", "columns"), [("NVDA", ["nvda", "Nvda"]), ("BRK.B", ["BRK-B", "BRK/B"])])
def test_two_candidates_are_an_error(symbol, columns):
    """Two equally good columns are the user's choice."""
    with pytest.raises(InputError, match=f"{symbol} could be any of"):
        resolve(symbol, columns)


def test_the_closest_names_come_first():
    """Suggestions are by spelling, whatever the case."""
    assert closest("nvdia", ["MSFT", "Nvda", "NVDB"], 1) == ["Nvda"]
    assert closest("XYZ", ["NVDA"]) == []


# --- prices ---


def test_long_and_wide_say_the_same():
    """The long and the wide form of the same prices are read alike, in any order of the columns."""
    table = read_prices(long()[["close", "ticker", "date"]]).close
    expected = read_prices(pd.DataFrame({"AAA": [1.0, 2.0], "BBB": [3.0, 4.0]}, index=DAYS[:2])).close
    pd.testing.assert_frame_equal(table, expected)
    indexed = long().astype({"date": "datetime64[ns]"}).set_index(["date", "ticker"])
    pd.testing.assert_frame_equal(read_prices(indexed).close, expected)


@pytest.mark.parametrize("name", ["date", "Date", "DATETIME", "Unnamed: 0"])
@pytest.mark.parametrize(
    "values",
    [
        ["2024-01-01", "2024-01-02"],
        ["2024-01-01T16:00:00-05:00", "2024-01-02T16:00:00-04:00"],  # over a change of summer time
        [date(2024, 1, 1), date(2024, 1, 2)],
        [pd.Timestamp(2024, 1, 1, 23).to_pydatetime(), pd.Timestamp(2024, 1, 2)],
        [np.datetime64("2024-01-01"), np.datetime64("2024-01-02")],
        pd.period_range("2024-01-01", periods=2, freq="D"),
        pd.date_range("2024-01-01 20:00", periods=2, tz="America/New_York"),  # UTC would call it the day after
        pd.date_range("2024-01-01 07:00", periods=2, tz="Asia/Tokyo"),  # UTC would call it the day before
    ],
)
def test_every_form_of_date_is_its_local_day(values, name):
    """Text, dates, timestamps and periods, with and without a zone, become the local calendar day."""
    index = read_prices(dated(values, name)).close.index
    assert [day.isoformat()[:10] for day in index] == ["2024-01-01", "2024-01-02"]
    assert (index.tz, index.dtype, index.name) == (None, "datetime64[us]", "date")


def test_dates_in_the_index():
    """An index of dates, of text dates or of dates with a zone is as good as a column."""
    for index in (DAYS, DAYS.strftime("%Y-%m-%d"), DAYS.tz_localize("Europe/London")):
        assert list(read_prices(wide().set_axis(index)).close.index) == list(DAYS)


def test_unsorted_rows_are_sorted_and_said():
    """Rows backwards in time are sorted and flagged; long rows are fine in any interleaving that goes forward."""
    read = read_prices(wide()[::-1])
    assert (read.flags, read.close["AAA"].tolist()) == (("unsorted",), [1, 2, 3, 4])
    assert read_prices(long()).flags == ()
    assert read_prices(long().iloc[[0, 2, 1, 3]]).flags == ()
    assert read_prices(long().iloc[[1, 0, 2, 3]]).flags == ("unsorted",)


@pytest.mark.parametrize(
    "values",
    [
        pd.array([1, None, 3, 4], dtype="Int64"),
        [Decimal(1), None, Decimal(3), Decimal(4)],
        ["1", None, "3.0", " 4 "],
        np.array([1, np.nan, 3, 4], dtype=np.float32),
    ],
)
def test_numbers_of_any_kind_are_floats(values):
    """Nullable integers, decimals, numbers in text and small floats are all read, and a hole stays a hole."""
    read = read_prices(wide(AAA=values))
    assert read.close["AAA"].dtype == np.float64
    np.testing.assert_array_equal(read.close["AAA"].to_numpy(), [1, np.nan, 3, 4])
    assert read.faults == {}


def test_a_cell_of_text_is_kept_as_a_fault():
    """A word among prices is remembered with its date, wide or long; the frame is still read."""
    seen = {"AAA": {pd.Timestamp("2024-01-02"): "'n/a'"}}
    assert read_prices(wide(AAA=[1.0, "n/a", 3.0, 4.0], BBB=[1, 2, 3, 4])).faults == seen
    assert read_prices(long(close=[1.0, "n/a", 3.0, 4.0])).faults == seen


def test_volume_stands_beside_the_prices():
    """Long prices may carry volume; it has the shape of the prices."""
    read = read_prices(long(volume=[10, 20, 30, None]))
    assert read.volume.shape == read.close.shape
    assert read.volume["BBB"].tolist()[0] == 30


def test_the_given_frame_is_not_touched():
    """Reading changes nothing in the user's own frame."""
    for frame in (wide()[::-1], dated(["2024-01-02", "2024-01-01"]), long(), wide().rename(columns={"AAA": " AAA "})):
        before = frame.copy(deep=True)
        read_prices(frame)
        pd.testing.assert_frame_equal(frame, before)


def test_returns_are_marked():
    """Returns are what they are said to be, under either name."""
    assert read_prices(wide(), returns=True).is_returns
    assert read_prices(long().rename(columns={"close": "return"}), returns=True).close["AAA"].tolist() == [1, 2]


NEW_YORK, TOKYO = ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")
BAD_PRICES = {
    "an empty frame": (pd.DataFrame(), "empty (0 rows, 0 columns)", "prices.info()"),
    "no rows": (wide().iloc[:0], "empty (0 rows, 1 columns)", "prices.info()"),
    "no columns": (wide()[[]], "empty (4 rows, 0 columns)", "prices.info()"),
    "None": (None, "a NoneType", "pd.DataFrame"),
    "a dict": ({"AAA": [1]}, "a dict", "pd.DataFrame"),
    "a path": ("prices.csv", "a str", "pd.DataFrame"),
    "a Series without a name": (wide()["AAA"].rename(None), "without a name", "rename"),
    "an integer index": (wide().reset_index(drop=True), "the index counts 0, ..., 3", '"date"'),
    "dates under another name": (dated(["2024-01-01"], "dates"), "no dates", "{'dates': 'date'}"),
    "dates as numbers": (dated([20240101, 20240102]), "numbers for dates (first: 20240101)", "pd.to_datetime"),
    "American dates": (dated(["01/31/2024"]), "row 1: '01/31/2024' is not a date", "%m/%d/%Y"),
    "words for dates": (dated(["2024-01-01", "soon"]), "row 2: 'soon'", "ISO"),
    "lists for dates": (dated([[1], [2]]), "lists", "one value a row"),
    "a missing date": (dated(["2024-01-01", None]), "1 row without a date (first: row 2)", "drop them"),
    "an empty date": (dated(["2024-01-01", " ", ""]), "2 rows without a date (first: row 2)", "drop them"),
    "NaT in the index": (wide().set_axis(pd.DatetimeIndex([*DAYS[:3], pd.NaT])), "1 row without a date (first: row 4)", "drop them"),
    "a date twice": (dated(["2024-01-02", "2024-01-01", "2024-01-02"]), "2024-01-02 has more than one row (1 repeated", "groupby"),
    "hours": (wide().set_axis(pd.date_range("2024-01-01", periods=4, freq="h")), "2024-01-01 has more than one row (3 rep", "last()"),
    "naive and aware": (dated([pd.Timestamp(2024, 1, 1), datetime(2024, 1, 2, tzinfo=UTC)]), "with a time zone", "tz_localize"),
    "naive and aware text": (dated(["2024-01-01", "2024-01-02T00:00Z"]), "with a time zone", "tz_localize"),
    "two zones": (dated([datetime(2024, 1, 1, tzinfo=TOKYO), datetime(2024, 1, 2, tzinfo=NEW_YORK)]), "UTC-5 to UTC+9", "tz_convert"),
    "two zones in text": (dated(["2024-01-01T00:00+09:00", "2024-01-02T00:00-05:00"]), "UTC-5 to UTC+9", "tz_convert"),
    "levels of columns": (wide().set_axis(pd.MultiIndex.from_tuples([("Close", "AAA")]), axis=1), "2 levels", "prices['Close']"),
    "numbers for tickers": (wide().set_axis([700], axis=1), "the column 700 is an int", "leading zeros"),
    "a column twice": (pd.concat([wide(), wide()], axis=1), "'AAA' more than once", "duplicated"),
    "a column twice but for a space": (wide(AAA=[1] * 4, **{"AAA ": [1] * 4}), "'AAA' more than once", "duplicated"),
    "two columns of dates": (dated(["2024-01-01"]).assign(Date="2024-01-01"), "mean the same", "drop"),
    "only dates": (dated(["2024-01-01"])[["date"]], "no column but 'date'", "one column a ticker"),
    "long without close": (long().rename(columns={"close": "Adj Close"}), "no column 'close'", "{'Adj Close': 'close'}"),
    "long, misspelt": (long().rename(columns={"close": "clsoe"}), "no column 'close'", "{'clsoe': 'close'}"),
    "long with a repeated row": (long(dates=["2024-01-01"] * 4), "AAA has more than one row for 2024-01-01 (2 rep", "drop_duplicates"),
    "long with a number": (long(tickers=["AAA", 700, "B", "B"]), "row 2 of the prices has the ticker 700", "dtype"),
    "long with a hole": (long(tickers=["AAA", None, "B", "B"]), "row 2 of the prices", "dtype"),
    "long without dates": (long().drop(columns="date"), "no dates", '"date"'),
    "levels without names": (pd.DataFrame({"close": [1.0]}, index=pd.MultiIndex.from_tuples([(1, 2)])), "without names", "rename_axis"),
}


@pytest.mark.parametrize("case", BAD_PRICES)
def test_a_bad_frame_is_refused(case):
    """What is wrong with the frame itself is an error before anything runs, and says what to do."""
    frame, seen, fix = BAD_PRICES[case]
    with pytest.raises(InputError) as caught:
        read_prices(frame)
    assert seen in caught.value.message
    assert fix in caught.value.fix


# --- evidence ---

TEXTS = pd.DataFrame(
    {
        "Ticker": ["nvda", None, "NVDA", "MSFT"],
        "text": ["b", "shared", "a", "c"],
        "date": ["2024-01-02", "2024-01-01", pd.Timestamp("2024-01-01", tz="UTC"), None],
        "source": ["wire", None, "wire", math.nan],
        "page": [1, 2, 3, 4],
    }
)


def test_a_frame_of_evidence():
    """Rows become documents with clean tickers and dates, in an order of their own; unknown columns are ignored."""
    assert read_evidence(TEXTS) == (
        Document(ident="E1", ticker="MSFT", text="c"),
        Document(ident="E2", ticker=None, text="shared", date=date(2024, 1, 1)),
        Document(ident="E3", ticker="NVDA", text="a", date=date(2024, 1, 1), source="wire"),
        Document(ident="E4", ticker="NVDA", text="b", date=date(2024, 1, 2), source="wire"),
    )


def test_the_order_of_the_rows_changes_nothing():
    """Shuffled rows give the same documents with the same ids."""
    for seed in range(5):
        assert read_evidence(TEXTS.sample(frac=1, random_state=seed)) == read_evidence(TEXTS)


@pytest.mark.parametrize(
    "data",
    [
        {"NVDA": ["a", "b"], None: "all"},
        [{"ticker": "NVDA", "text": "a"}, {"Ticker": "nvda", "text": "b", "date": None}, {"text": "all"}],
        {"NVDA": [{"text": "a"}, "b"], "": ["all"]},
        pd.DataFrame({"symbol": ["NVDA", "NVDA", None], "text": ["a", "b", "all"]}),
    ],
)
def test_every_shape_of_evidence_means_the_same(data):
    """A mapping, a list and a frame give the same documents."""
    assert [(one.ident, one.ticker, one.text) for one in read_evidence(data)] == [
        ("E1", "NVDA", "a"),
        ("E2", None, "all"),
        ("E3", "NVDA", "b"),
    ]


def test_no_evidence_is_evidence_of_nothing():
    """A day without news is no error."""
    assert read_evidence([]) == read_evidence({}) == read_evidence(TEXTS.iloc[:0]) == ()


def test_own_ids_stay_and_others_keep_clear_of_them():
    """Given ids are kept, numbers lose their .0, and a new id is never one that is taken."""
    data = pd.DataFrame({"ticker": ["A", "A", "A"], "text": ["x", "y", "z"], "id": [7.0, None, None]})
    assert [one.ident for one in read_evidence(data)] == ["7", "E1", "E2"]
    assert [one.ident for one in read_evidence([{"text": "x", "id": "E1"}, {"text": "y"}])] == ["E1", "E2"]
    two = [{"ticker": ticker, "text": "x", "id": "R-1"} for ticker in "AB"]  # one article about two companies
    assert [one.ident for one in read_evidence(two)] == ["R-1", "R-1"]


BAD_EVIDENCE = {
    "None": (None, "a NoneType", "DataFrame"),
    "a path": ("news.csv", "a str", "DataFrame"),
    "a number": (5, "an int", "DataFrame"),
    "an empty frame": (pd.DataFrame(), "no column 'ticker', only none", "add the column"),
    "a misspelt ticker": (TEXTS.rename(columns={"Ticker": "tickr"}), "no column 'ticker'", "{'tickr': 'ticker'}"),
    "no text": (TEXTS.rename(columns={"text": "body"}), "no column 'text'", "add the column 'text'"),
    "a hole": (TEXTS.assign(text=["a", "b", None, "c"]), "row 3 has no text", "dropna"),
    "blank text": (TEXTS.assign(text=["a", " ", "b", "c"]), "row 2 has no text", "dropna"),
    "a number for a text": ({"NVDA": ["a", 5]}, "item 2 has an int (5)", "dropna"),
    "a number for texts": ({"NVDA": 5}, "evidence of 'NVDA' is an int", "DataFrame"),
    "words for a date": (TEXTS.assign(date="soon"), "row 1: 'soon' is not a date", "ISO"),
    "a number for a date": ([{"text": "a", "date": 20240101}], "20240101 is not a date", "ISO"),
    "a path for a ticker": ([{"text": "a", "ticker": "../x"}], "'../x' is not a ticker", "NVDA"),
    "a number for a ticker": ([{"text": "a", "ticker": 700}], "700 is an int", '"700"'),
    "a misspelt key": ([{"text": "a", "tickr": "NVDA"}], "no 'ticker', but 'tickr'", "rename"),
    "a misspelt text": ([{"txt": "a", "ticker": "NVDA"}], "no 'text', but 'txt'", "rename"),
    "an id twice": (TEXTS.assign(id="same"), "two documents for NVDA have the id 'same'", "own id"),
}


@pytest.mark.parametrize("case", BAD_EVIDENCE)
def test_bad_evidence_is_refused(case):
    """Evidence that would be lost, or laid at the wrong door, is an error that names its row."""
    data, seen, fix = BAD_EVIDENCE[case]
    with pytest.raises(InputError) as caught:
        read_evidence(data)
    assert seen in caught.value.message
    assert fix in caught.value.fix


def own_texts(holding="NVDA", as_of=None):
    documents, flags = documents_for(read_evidence(TEXTS), Holding(symbol=holding), RiskParams(), as_of=as_of)
    return [one.text for one in documents], flags


def test_a_company_gets_its_own_and_the_shared_documents():
    """Its own, those of no company, and nobody else's."""
    assert own_texts() == (["shared", "a", "b"], ())
    assert own_texts("MSFT") == (["c", "shared"], ())
    assert own_texts("AAPL") == (["shared"], ())


def test_evidence_after_the_date_is_cut():
    """What was written later is left out and said; what has no date is left out only when the date was asked for."""
    assert own_texts(as_of=date(2024, 1, 1)) == (["shared", "a"], ("future_evidence",))
    assert own_texts(as_of=pd.Timestamp("2024-01-01")) == (["shared", "a"], ("future_evidence",))
    assert own_texts("MSFT", as_of=date(2024, 1, 1)) == (["c", "shared"], ())


def test_params_decide_the_date():
    """The as-of date of the parameters goes before that of the prices."""
    documents = read_evidence(TEXTS)
    for symbol, texts, flags in (("MSFT", ["shared"], ("undated",)), ("NVDA", ["shared", "a"], ("future_evidence",))):
        own, seen = documents_for(documents, Holding(symbol=symbol), RiskParams.of(as_of="2024-01-01"), as_of=date(2030, 1, 1))
        assert ([one.text for one in own], seen) == (texts, flags)


def test_both_spellings_of_a_share_class_are_the_companys_own():
    """BRK-B's documents serve BRK.B and are flagged; those of BRK.A do not."""
    documents = read_evidence({"BRK-B": "one", "BRK.B": "two", "BRK.A": "three"})
    own, flags = documents_for(documents, Holding(symbol="BRK.B"), RiskParams())
    assert ([one.text for one in own], flags) == (["one", "two"], ("alias",))


# --- parameters ---


@pytest.mark.parametrize(
    ("alpha", "label"), [(0.05, "95"), (0.01, "99"), (0.025, "975"), (0.005, "995"), (0.1, "90"), (0.5, "50"), (0.3, "70")]
)
def test_column_names_carry_the_level(alpha, label):
    """The digits are exact: 0.3 is 70, though 1 - 0.3 is no such float."""
    assert alpha_label(alpha) == label


@pytest.mark.parametrize("alpha", [0.05, [0.05], "0.05", np.float64(0.05), (0.05, 0.05), np.array([0.05])])
def test_alpha_has_one_form(alpha):
    """A number, text and lists mean the same; a repeated one counts once."""
    assert RiskParams.of(alpha=alpha) == RiskParams()


def test_parameters_survive_their_record():
    """What as_dict writes is JSON, and reads back to equal parameters."""
    params = RiskParams.of(
        alpha="0.05, 0.01",
        end=pd.Timestamp("2024-06-30"),
        as_of=pd.Timestamp(2024, 7, 1, 12).to_pydatetime(),
        window="18M",
        benchmark=" SPY ",
        query="  ",
        seed=np.int64(3),
        periods_per_year="252",
    )
    assert (params.window, params.benchmark, params.query, params.as_of) == ("18m", "SPY", None, date(2024, 7, 1))
    assert RiskParams.of(**json.loads(json.dumps(params.as_dict()))) == params
    assert hash(params) == hash(RiskParams.of(**params.as_dict()))


BAD_PARAMS = {
    "a percent": ({"alpha": 5}, "alpha=5", "did you mean 0.05?"),
    "a level in percent": ({"alpha": 97.5}, "alpha=97.5", "did you mean 0.025?"),
    "a level": ({"alpha": 0.99}, "alpha=0.99", "did you mean 0.01?"),
    "a percent in a list": ({"alpha": [0.05, 1]}, "alpha=1 ", "alpha=0.05"),
    "a percent sign": ({"alpha": "5%"}, "'5%'", "alpha=0.05"),
    "zero": ({"alpha": 0}, "alpha=0 ", "alpha=0.05"),
    "negative": ({"alpha": -0.05}, "alpha=-0.05", "alpha=0.05"),
    "NaN": ({"alpha": math.nan}, "alpha=nan", "alpha=0.05"),
    "words for alpha": ({"alpha": "small"}, "'small'", "alpha=0.05"),
    "True for alpha": ({"alpha": True}, "True", "alpha=0.05"),
    "no alpha": ({"alpha": []}, "empty", "alpha=0.05"),
    "end before start": ({"start": "2024-02-01", "end": "2024-01-01"}, "start=2024-02-01 is after end=2024-01-01", "start=2024-01-01"),
    "start after as_of": ({"start": "2024-02-01", "as_of": "2024-01-01"}, "after as_of=2024-01-01", "as_of=2024-02-01"),
    "window and start": ({"start": "2024-02-01", "window": "2y"}, "both", "one of the two"),
    "a window in words": ({"window": "2 years"}, "'2 years'", 'window="2y"'),
    "a window without unit": ({"window": "90"}, "'90'", "90d"),
    "a window as number": ({"window": 90}, "window=90", "90d"),
    "a window of nothing": ({"window": "0d"}, "'0d'", 'window="2y"'),
    "a window of ages": ({"window": "5000y"}, "100y", 'window="2y"'),
    "a German date": ({"as_of": "31.12.2024"}, "as_of='31.12.2024'", "2019-12-30"),
    "a number for a date": ({"end": 20241231}, "end=20241231", "2019-12-30"),
    "no time": ({"as_of": pd.NaT}, "NaT", "2019-12-30"),
    "a day that is none": ({"start": "2023-02-29"}, "'2023-02-29'", "2019-12-30"),
    "an empty benchmark": ({"benchmark": " "}, "empty", "leave benchmark out"),
    "a Series in the parameters": ({"benchmark": pd.Series([1.0])}, "a Series", '"given"'),
    "no factor": ({"periods_per_year": 0}, "periods_per_year=0", "252"),
    "words for a factor": ({"periods_per_year": "daily"}, "'daily'", "252"),
    "an infinite factor": ({"periods_per_year": math.inf}, "inf", "252"),
    "a misspelt name": ({"benchmrk": "SPY"}, "'benchmrk'", "did you mean 'benchmark'?"),
    "an unknown name": ({"xyz": 1}, "'xyz'", "alpha"),
    "half a sentence": ({"max_sentences": 1.5}, "1.5", "max_sentences=1"),
    "no sentence": ({"max_sentences": 0}, "max_sentences=0", "max_sentences=1"),
    "no token": ({"num_predict": 0}, "num_predict=0", "num_predict=1"),
    "True for a seed": ({"seed": True}, "seed=True", "seed=1"),
    "a negative seed": ({"seed": -1}, "seed=-1", "seed=1"),
    "words for a switch": ({"llm": "no"}, "'no'", "llm=True"),
    "a number for a switch": ({"returns": 1}, "returns=1", "returns=True"),
    "a number for a query": ({"query": 5}, "an int", "query="),
    "an empty model": ({"model": ""}, "empty", "leave model out"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_bad_parameters_are_refused(case):
    """Each setting that cannot be meant as given is named with its value and the likely intention."""
    given_params, seen, fix = BAD_PARAMS[case]
    with pytest.raises(InputError) as caught:
        RiskParams.of(**given_params)
    assert seen in caught.value.message
    assert fix in caught.value.fix
