"""Prices are read from whatever frame says clearly what it means, or refused with a way out."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.prices import read_benchmark, read_prices

DAYS = pd.bdate_range("2024-01-01", periods=4, name="date")


def wide(**columns):
    return pd.DataFrame(columns or {"AAA": [1.0, 2.0, 3.0, 4.0]}, index=DAYS)


def long(
    dates=("2024-01-01", "2024-01-02") * 2,
    tickers=("AAA", "AAA", "BBB", "BBB"),
    close=(1.0, 2.0, 3.0, 4.0),
    **more,
):
    return pd.DataFrame(
        {"date": list(dates), "ticker": list(tickers), "close": list(close), **more}
    )


def dated(values, name="date"):
    return pd.DataFrame({name: values, "AAA": np.arange(1.0, 1 + len(values))})


def test_long_and_wide_say_the_same():
    """The long and the wide form of the same prices are read alike, in any order of the columns."""
    table = read_prices(long()[["close", "ticker", "date"]]).close
    expected = read_prices(
        pd.DataFrame({"AAA": [1.0, 2.0], "BBB": [3.0, 4.0]}, index=DAYS[:2])
    ).close
    pd.testing.assert_frame_equal(table, expected)
    indexed = long().astype({"date": "datetime64[ns]"}).set_index(["date", "ticker"])
    pd.testing.assert_frame_equal(read_prices(indexed).close, expected)


@pytest.mark.parametrize(
    "name", ["date", "Date", "DATETIME", "Unnamed: 0", "Day", "Dates", "timestamp", "Trade Date"]
)
@pytest.mark.parametrize(
    "values",
    [
        ["2024-01-01", "2024-01-02"],
        ["2024-01-01T16:00:00-05:00", "2024-01-02T16:00:00-04:00"],  # over a change of summer time
        [date(2024, 1, 1), date(2024, 1, 2)],
        [pd.Timestamp(2024, 1, 1, 23).to_pydatetime(), pd.Timestamp(2024, 1, 2)],
        [np.datetime64("2024-01-01"), np.datetime64("2024-01-02")],
        pd.period_range("2024-01-01", periods=2, freq="D"),
        # UTC would call it the day after
        pd.date_range("2024-01-01 20:00", periods=2, tz="America/New_York"),
        # UTC would call it the day before
        pd.date_range("2024-01-01 07:00", periods=2, tz="Asia/Tokyo"),
    ],
)
def test_every_form_of_date_is_its_local_day(values, name):
    """
    Text, dates, timestamps and periods, with and without a zone, become the local calendar day.
    """
    index = read_prices(dated(values, name)).close.index
    assert [day.isoformat()[:10] for day in index] == ["2024-01-01", "2024-01-02"]
    assert (index.tz, index.dtype, index.name) == (None, "datetime64[us]", "date")


def test_dates_in_the_index():
    """An index of dates, of text dates or of dates with a zone is as good as a column."""
    for index in (DAYS, DAYS.strftime("%Y-%m-%d"), DAYS.tz_localize("Europe/London")):
        assert list(read_prices(wide().set_axis(index)).close.index) == list(DAYS)


def test_unsorted_rows_are_sorted_and_said():
    """
    Rows backwards in time are sorted and flagged; long rows are fine in any interleaving that goes
    forward.
    """
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
    """
    Nullable integers, decimals, numbers in text and small floats are all read, and a hole stays a
    hole.
    """
    read = read_prices(wide(AAA=values))
    assert read.close["AAA"].dtype == np.float64
    np.testing.assert_array_equal(read.close["AAA"].to_numpy(), [1, np.nan, 3, 4])
    assert read.faults == {}


def test_a_cell_of_text_is_kept_as_a_fault():
    """A word among prices is remembered with its date, wide or long; the frame is still read."""
    seen = {"AAA": {pd.Timestamp("2024-01-02"): "'halted'"}}
    assert read_prices(wide(AAA=[1.0, "halted", 3.0, 4.0], BBB=[1, 2, 3, 4])).faults == seen
    assert read_prices(long(close=[1.0, "halted", 3.0, 4.0])).faults == seen


def test_volume_stands_beside_the_prices():
    """Long prices may carry volume; it has the shape of the prices."""
    read = read_prices(long(volume=[10, 20, 30, None]))
    assert read.volume.shape == read.close.shape
    assert read.volume["BBB"].tolist()[0] == 30


def test_the_given_frame_is_not_touched():
    """Reading changes nothing in the user's own frame."""
    for frame in (
        wide()[::-1],
        dated(["2024-01-02", "2024-01-01"]),
        long(),
        wide().rename(columns={"AAA": " AAA "}),
    ):
        before = frame.copy(deep=True)
        read_prices(frame)
        pd.testing.assert_frame_equal(frame, before)


def test_returns_are_marked():
    """Returns are what they are said to be, under either name."""
    assert read_prices(wide(), returns=True).is_returns
    assert read_prices(long().rename(columns={"close": "return"}), returns=True).close[
        "AAA"
    ].tolist() == [1, 2]


NEW_YORK, TOKYO = ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")
BAD_PRICES = {
    "an empty frame": (pd.DataFrame(), "empty (0 rows, 0 columns)", "prices.info()"),
    "no rows": (wide().iloc[:0], "empty (0 rows, 1 columns)", "prices.info()"),
    "no columns": (wide()[[]], "empty (4 rows, 0 columns)", "prices.info()"),
    "None": (None, "a NoneType", "pd.DataFrame"),
    "a dict": ({"AAA": [1]}, "a dict of 'AAA' to a list", "pd.DataFrame"),
    "an empty dict": ({}, "a dict of 0 tickers", "items()"),
    "a dict of empty frames": ({"AAA": pd.DataFrame()}, "a dict of 1 ticker)", "items()"),
    "a path to nothing": ("prices.csv", "no file or folder 'prices.csv'", "check the path"),
    "a Series without a name": (wide()["AAA"].rename(None), "without a name", "rename"),
    "an integer index": (wide().reset_index(drop=True), "the index counts 0, ..., 3", '"date"'),
    "dates as numbers": (
        dated([45292, 45293]),
        "numbers for dates (first: 45292)",
        'origin="1899-12-30"',
    ),
    "dates of two readings": (
        dated(["01/02/2024", "02/02/2024"]),
        "'01/02/2024', which may be month/day/year or day/month/year",
        "format='%d/%m/%Y'",
    ),
    "words for dates": (dated(["2024-01-01", "soon"]), "row 2: 'soon'", "ISO"),
    "lists for dates": (dated([[1], [2]]), "lists", "one value in each row"),
    "a missing date": (
        dated(["2024-01-01", None]),
        "1 row without a date (first: row 2)",
        "drop them",
    ),
    "an empty date": (
        dated(["2024-01-01", " ", ""]),
        "2 rows without a date (first: row 2)",
        "drop them",
    ),
    "NaT in the index": (
        wide().set_axis(pd.DatetimeIndex([*DAYS[:3], pd.NaT])),
        "1 row without a date (first: row 4)",
        "drop them",
    ),
    "a date twice": (
        dated(["2024-01-02", "2024-01-01", "2024-01-02"]),
        "2024-01-02 has more than one row (1 repeated",
        "duplicated",
    ),
    "hours": (
        wide().set_axis(pd.date_range("2024-01-01", periods=4, freq="h")),
        "2024-01-01 has more than one row (3 rep",
        'keep="last"',
    ),
    "naive and aware": (
        dated([pd.Timestamp(2024, 1, 1), datetime(2024, 1, 2, tzinfo=UTC)]),
        "with a time zone",
        "[:10]",
    ),
    "naive and aware text": (
        dated(["2024-01-01", "2024-01-02T00:00Z"]),
        "with a time zone",
        "[:10]",
    ),
    "two zones": (
        dated([datetime(2024, 1, 1, tzinfo=TOKYO), datetime(2024, 1, 2, tzinfo=NEW_YORK)]),
        "UTC-5 to UTC+9",
        "[:10]",
    ),
    "two zones in text": (
        dated(["2024-01-01T00:00+09:00", "2024-01-02T00:00-05:00"]),
        "UTC-5 to UTC+9",
        "[:10]",
    ),
    "levels of columns": (
        wide().set_axis(pd.MultiIndex.from_tuples([("XNAS", "AAA")]), axis=1),
        "2 levels",
        "prices.droplevel(0, axis=1)",
    ),
    "numbers for tickers": (
        wide().set_axis([700], axis=1),
        "the column 700 is an int",
        "columns=str",
    ),
    "a column twice": (pd.concat([wide(), wide()], axis=1), "'AAA' more than once", "duplicated"),
    "a column twice but for a space": (
        wide(AAA=[1] * 4, **{"AAA ": [1] * 4}),
        "'AAA' more than once",
        "duplicated",
    ),
    "two columns of dates": (
        dated(["2024-01-01"]).assign(Date="2024-01-01"),
        "mean the same",
        "drop",
    ),
    "only dates": (
        dated(["2024-01-01"])[["date"]],
        "only the column 'date'",
        "a column for each ticker",
    ),
    "long without close": (
        long().rename(columns={"close": "level"}),
        "no column 'close'",
        "price_column='level'",
    ),
    "long, misspelt": (
        long().rename(columns={"close": "clsoe"}),
        "no column 'close'",
        "{'clsoe': 'close'}",
    ),
    "long with a repeated row": (
        long(dates=["2024-01-01"] * 4),
        "AAA has more than one row for 2024-01-01 (2 rep",
        "duplicated",
    ),
    "long with a number": (
        long(tickers=["AAA", 700, "B", "B"]),
        "row 2 of the prices has the ticker 700",
        "astype(str)",
    ),
    "long with a hole": (long(tickers=["AAA", None, "B", "B"]), "row 2 of the prices", "notna()"),
    "long without dates": (long().drop(columns="date"), "no dates", '"date"'),
    "levels without names": (
        pd.DataFrame({"close": [1.0]}, index=pd.MultiIndex.from_tuples([(1, 2)])),
        "2 levels of rows",
        "reset_index",
    ),
}


@pytest.mark.parametrize("case", BAD_PRICES)
def test_a_bad_frame_is_refused(case):
    """What is wrong with the frame itself is an error before anything runs, and says what to do."""
    frame, seen, fix = BAD_PRICES[case]
    with pytest.raises(InputError) as caught:
        read_prices(frame)
    assert seen in caught.value.message
    assert fix in caught.value.fix


HEADERS = [
    *("Day", "date", "Trade Date", "Trade Day", "Period", "Session", "Fecha", "\u65e5\u4ed8"),
    *("t", "Week", "Month", "as_of", "Business Day", "Quotes"),
]


@pytest.mark.parametrize("options", [{}, {"index_col": 0, "parse_dates": True}])
@pytest.mark.parametrize("name", HEADERS)
def test_columns_that_pandas_moved_are_refused_whatever_they_are_called(name, options):
    """Rows that end in a separator give each ticker its neighbour's prices: the shape shows it."""
    text = f"{name},AAPL,MSFT\n2024-01-01,100.0,300.0,\n2024-01-02,101.0,301.0,\n"
    with pytest.raises(InputError, match="the columns moved by one") as caught:
        read_prices(pd.read_csv(StringIO(text), **options))
    assert "index_col=False" in caught.value.fix
    read = read_prices(pd.read_csv(StringIO(text.replace(name, "date")), index_col=False))
    assert read.close["AAPL"].tolist() == [100.0, 101.0]


MOVED = {
    "two separators": "Trade Day,AAPL,MSFT\n2024-01-01,1.0,2.0,,\n2024-01-02,1.0,2.0,,\n",
    "dates that are not ISO": "Trade Day,AAPL,MSFT\n01/31/2024,1.0,2.0,\n02/01/2024,1.0,2.0,\n",
    "a blank after it": "Trade Day,AAPL,MSFT\n2024-01-01,1.0,2.0, \n2024-01-02,1.0,2.0, \n",
    "a remark after it": "Trade Day,AAPL,MSFT\n2024-01-01,1.0,2.0,\n2024-01-02,1.0,2.0,half day\n",
    "a word among the prices": "Trade Day,AAPL,MSFT\n2024-01-01,n/k,2.0,\n2024-01-02,1.0,2.0,\n",
    "long": "Day,ticker,exchange,close,volume\n2024-01-01,AAPL,XNAS,1.0,5,\n",
}


@pytest.mark.parametrize("case", MOVED)
def test_other_rows_that_pandas_moved_are_refused(case):
    """Two separators, a remark, other dates, a long table: the kind of fault is the same."""
    with pytest.raises(InputError, match="the columns moved by one"):
        read_prices(pd.read_csv(StringIO(MOVED[case])))


SPLIT = {
    "one number": "Day,AAPL\n2024-01-01,150,5\n2024-01-02,151,5\n",
    "one number under an odd name": "Quotes,AAPL\n2024-01-01,150,5\n2024-01-02,151,25\n",
    "two numbers": "Day,AAPL,MSFT\n2024-01-01,150,5,380,1\n2024-01-02,151,5,379,1\n",
    "one of two": "Date,AAPL,MSFT\n2024-01-01,150.5,3,800.1\n2024-01-02,151.5,3,810.1\n",
    "thousands": "Trade Date,AAPL,MSFT\n2024-01-01,150.5,3,800\n2024-01-02,151.5,3,810\n",
    "American dates": "Date,AAPL,MSFT\n01/31/2024,150,5,380\n02/01/2024,151,5,379\n",
}


@pytest.mark.filterwarnings("ignore:Could not infer format")
@pytest.mark.parametrize("options", [{}, {"parse_dates": True}])
@pytest.mark.parametrize("case", SPLIT)
def test_numbers_that_a_comma_split_are_refused(case, options):
    """Each price would stand under the name of its neighbour, or lose its fraction."""
    with pytest.raises(InputError, match="more fields than the header"):
        read_prices(pd.read_csv(StringIO(SPLIT[case]), **options))


def test_a_frame_of_whole_numbers_is_read():
    """Shares at whole prices, a lower-case name first, an index without a name: nothing moved."""
    for frame in (
        wide(gold=[2000, 2001, 2002, 2003], SPY=[3, 4, 5, 6], QQQ=[7, 8, 9, 10]),
        wide(AAPL=[150, 151, 152, 153], MSFT=[5, 6, 7, 8]),
        wide(gold=[20.5, 20.1, 20.2, 20.3], SPY=[3.0, 4.0, 5.0, 6.0]),
    ):
        assert read_prices(frame.rename_axis(None)).close.to_dict("list") == frame.to_dict("list")


@pytest.mark.parametrize("index", [DAYS.rename(None), DAYS.strftime("%Y-%m-%d").rename("date")])
def test_a_last_ticker_without_prices_is_no_moved_column(index):
    """A download that failed leaves an empty column: its row says so, and the others go on."""
    frame = wide(AAPL=[1.0, 2.0, 3.0, 4.0], MSFT=[np.nan] * 4).set_axis(index)
    close = read_prices(frame).close
    assert close["AAPL"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert close["MSFT"].isna().all()


def test_a_ticker_that_is_called_like_a_date_stays_a_ticker():
    """
    DAY and TIME are columns of prices where the index has the dates, or where they hold numbers.
    """
    for frame in (
        wide(DAY=[1.0, 2.0, 3.0, 4.0], AAA=[1.0] * 4),
        wide(TIME=[1.0, 2.0, 3.0, 4.0]).reset_index(),
    ):
        assert next(iter(read_prices(frame).close)) in ("DAY", "TIME")
    texts = wide(DAY=[1.0, 2.0, 3.0, 4.0], AAA=[1.0] * 4).set_axis(
        [f"2024-01-0{day}" for day in range(1, 5)]
    )
    assert list(read_prices(texts).close) == ["DAY", "AAA"]


def test_a_callable_is_given_the_tickers_and_its_errors_are_its_own():
    """
    Any source of data plugs in; an exception of the user's own code is not dressed up.
    """
    read = read_prices(
        lambda tickers: wide(**{name: [1.0] * 4 for name in tickers}), tickers=("AAA", "BBB")
    )
    assert list(read.close) == ["AAA", "BBB"]
    with pytest.raises(ZeroDivisionError):
        read_prices(lambda tickers: 1 / 0)


@pytest.mark.parametrize(
    ("name", "column"), [("SPY", "SPY"), (None, "given"), ("ticker", "ticker")]
)
def test_a_benchmark_is_one_column_by_its_own_name(name, column):
    """
    Whatever the Series is called, it is read as prices; what is no number is kept as a fault.
    """
    read = read_benchmark(wide(AAA=[1.0, 2.0, "x", 4.0])["AAA"].rename(name))
    assert read.close[column].tolist()[:2] == [1.0, 2.0]
    assert read.faults == {column: {DAYS[2]: "'x'"}}
    assert read_benchmark(wide()["AAA"].rename(name)).faults == {}


def test_a_benchmark_that_is_no_series_is_refused():
    """
    A frame could hold several.
    """
    with pytest.raises(InputError, match="a DataFrame, not a Series"):
        read_benchmark(wide())
