"""
Every shape that prices come in is read as it is: as yfinance, Alpaca, Bloomberg and R make them.
"""

from __future__ import annotations

from io import StringIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness import ROOT
from urisk_nb.errors import InputError
from urisk_nb.readers import price_fields
from urisk_nb.readers.prices import list_names, read_prices

DAYS = pd.bdate_range("2024-01-01", periods=4, name="Date")
NVDA, MSFT = [10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]
EXPECTED = pd.DataFrame({"NVDA": NVDA, "MSFT": MSFT}, index=DAYS)


def company(values, **more):
    """One company's table, as yf.Ticker(...).history() gives it."""
    close = np.array(values)
    return pd.DataFrame(
        {
            "Open": close - 0.1,
            "High": close + 0.3,
            "Low": close - 0.3,
            "Close": close,
            "Volume": (100 * close).astype(int),
            "Dividends": 0.0,
            "Stock Splits": 0.0,
            **more,
        },
        index=DAYS,
    )


FIELDS_FIRST = pd.concat(
    {"NVDA": company(NVDA), "MSFT": company(MSFT)}, axis=1, names=["Ticker", "Price"]
).swaplevel(axis=1)
FIELDS_FIRST = FIELDS_FIRST.sort_index(axis=1)[["Close", "High", "Low", "Open", "Volume"]]
TICKERS_FIRST = FIELDS_FIRST.swaplevel(axis=1).sort_index(axis=1)
LONG = FIELDS_FIRST.stack(level="Ticker", future_stack=True).rename_axis(index=["Date", "Ticker"])
UNNAMED = FIELDS_FIRST.rename_axis(columns=[None, None])


def saved(frame, **options):
    return pd.read_csv(StringIO(frame.to_csv(**options)))


def flat(sign, *, field_first=False):
    order = (0, 1) if field_first else (1, 0)
    names = [sign.join(pair[place] for place in order) for pair in FIELDS_FIRST.columns]
    return FIELDS_FIRST.set_axis(names, axis=1)


SHAPES = {
    "wide": EXPECTED,
    "wide with a date column": EXPECTED.reset_index(),
    "yfinance": FIELDS_FIRST,
    "yfinance by ticker": TICKERS_FIRST,
    "without names of levels": UNNAMED,
    "by ticker, without names": UNNAMED.swaplevel(axis=1),
    "levels and a counted index": FIELDS_FIRST.reset_index(),
    "levels without volume": FIELDS_FIRST[["Close", "Open"]],
    "only the level of closes": FIELDS_FIRST[["Close"]],
    "a third level": pd.concat({"USD": FIELDS_FIRST}, axis=1),
    "Bloomberg": FIELDS_FIRST.rename(columns={"Close": "PX_LAST", "Open": "PX_OPEN"}),
    "a wide frame for each field": {
        "Close": FIELDS_FIRST["Close"],
        "Volume": FIELDS_FIRST["Volume"],
    },
    "a dict of tables": {"NVDA": company(NVDA), "MSFT": company(MSFT)},
    "a dict of Series": {"NVDA": EXPECTED["NVDA"].rename("Close"), "MSFT": EXPECTED["MSFT"]},
    "a dict of Series without names": {
        "NVDA": EXPECTED["NVDA"].rename(None),
        "MSFT": EXPECTED["MSFT"].rename(None),
    },
    "a dict of one-column frames": {
        "NVDA": EXPECTED[["NVDA"]].set_axis(["x"], axis=1),
        "MSFT": EXPECTED[["MSFT"]],
    },
    "a dict of dicts": {"NVDA": EXPECTED["NVDA"].to_dict(), "MSFT": EXPECTED["MSFT"].to_dict()},
    "pyarrow": pa.Table.from_pandas(EXPECTED.reset_index()),
    "long": LONG.reset_index(),
    "long by other names": LONG.reset_index().rename(
        columns={"Ticker": "ts_code", "Date": "trade_date"}
    ),
    "rows (date, ticker)": LONG,
    "rows (ticker, date)": LONG.swaplevel().sort_index(),
    "rows without names": LONG.rename_axis([None, None]),
    "rows (ticker, date) without names": LONG.swaplevel().sort_index().rename_axis([None, None]),
    "rows as a Series": LONG["Close"],
    "rows as a Series without names": LONG["Close"].rename(None).rename_axis([None, None]),
    "rows with dates as text": LONG.reset_index()
    .assign(Date=lambda rows: rows["Date"].astype(str))
    .set_index(["Ticker", "Date"]),
    "rows with a third level": pd.concat({"XNAS": LONG}),
    "melted": EXPECTED.reset_index().melt(id_vars="Date"),
    "a row a field": LONG.stack(future_stack=True)
    .rename("value")
    .rename_axis(["Date", "Ticker", "field"])
    .reset_index(),
    "columns NVDA.Close": flat("."),
    "columns NVDA_Close": flat("_"),
    "columns Close_NVDA": flat("_", field_first=True),
    "columns 'NVDA Close'": flat(" ").reset_index(),
    "rows are tickers": EXPECTED.T,
    "rows are tickers, dates as text": EXPECTED.set_axis(DAYS.strftime("%Y-%m-%d"))
    .T.rename_axis("ticker")
    .reset_index(),
    "a saved download": saved(FIELDS_FIRST),
    "a saved download by ticker": saved(TICKERS_FIRST),
    "a saved download without names": saved(UNNAMED.rename_axis(index=None)),
    "a saved download read with its index": pd.read_csv(
        StringIO(FIELDS_FIRST.to_csv()), index_col=0
    ),
    "a saved download read with its header": pd.read_csv(
        StringIO(FIELDS_FIRST.to_csv()), header=[0, 1], index_col=0
    ),
    "a saved wide frame": saved(EXPECTED),
    "an index of text": EXPECTED.set_axis(DAYS.strftime("%Y-%m-%d")),
    "dates of eight digits": EXPECTED.set_axis(DAYS.strftime("%Y%m%d").astype(int))
    .rename_axis("trade_date")
    .reset_index(),
    "numbers as text": EXPECTED.map(lambda value: f"{1000 * value:,.2f}").reset_index(),
    "numbers with a decimal comma": EXPECTED.map(
        lambda value: f"{1000 * value:.2f}".replace(".", ",")
    ),
    "dollars": EXPECTED.map(lambda value: f"${1000 * value:.2f}"),
    "rows of JSON": LONG.reset_index().to_dict("records"),
    "a third level and closes alone": pd.concat({"X": FIELDS_FIRST[["Close"]]}, axis=1),
    "a row of units": saved(
        EXPECTED.set_axis(pd.MultiIndex.from_product([["NVDA", "MSFT"], ["USD"]]), axis=1)
    ),
    "a callable": lambda tickers: FIELDS_FIRST,
}


@pytest.mark.parametrize("case", SHAPES)
def test_every_shape_says_the_same(case):
    """Tickers, dates and closes are found, whatever the frame looks like."""
    close = read_prices(SHAPES[case], tickers=["NVDA", "MSFT"]).close
    scale = close["NVDA"].iloc[0] / 10
    assert scale in (1, 1000)
    pd.testing.assert_frame_equal(
        close[["NVDA", "MSFT"]] / scale,
        EXPECTED.rename_axis("date").set_axis(DAYS.rename("date").as_unit("us")),
        check_names=False,
        check_freq=False,
    )
    assert set(close.columns) == {"NVDA", "MSFT"}


VOLUMES = [
    *("yfinance", "yfinance by ticker", "a dict of tables", "long", "rows (date, ticker)"),
    *(
        "rows without names",
        "columns NVDA.Close",
        "a saved download",
        "a wide frame for each field",
    ),
]


@pytest.mark.parametrize("case", VOLUMES)
def test_volume_comes_with_it(case):
    """Where the shape has a field of volumes, they stand beside the prices."""
    read = read_prices(SHAPES[case], tickers=["NVDA", "MSFT"])
    assert list(read.volume.columns) == list(read.close.columns)
    assert read.volume["NVDA"].tolist() == [1000, 2000, 3000, 4000]


# --- one company ---


ONE = {
    "a table": company(NVDA),
    "a table with a date column": company(NVDA).reset_index(),
    "a table in small letters": company(NVDA).rename(columns=str.lower),
    "a table with other columns": company(NVDA, RSI=50.0, SMA=1.0, remark="x"),
    "one letter a field": company(NVDA)[["Open", "High", "Low", "Close", "Volume"]].set_axis(
        list("ohlcv"), axis=1
    ),
    "German": company(NVDA)[["Open", "High", "Low", "Close", "Volume"]].set_axis(
        ["Erster", "Hoch", "Tief", "Schlusskurs", "Volumen"], axis=1
    ),
    "Chinese": company(NVDA)[["Open", "Close", "Volume"]]
    .set_axis(["开盘", "收盘", "成交量"], axis=1)
    .rename_axis("日期")
    .reset_index(),
    "its name in a column": company(NVDA, Name="NVIDIA Corp", Currency="USD"),
    "its ticker in a column": company(NVDA, Code="NVDA.US"),
    "closes alone": company(NVDA)[["Close"]],
    "date and value": EXPECTED[["NVDA"]].set_axis(["value"], axis=1).reset_index(),
    "Alpha Vantage": company(NVDA)[["Open", "High", "Low", "Close", "Volume"]].set_axis(
        ["1. open", "2. high", "3. low", "4. close", "5. volume"], axis=1
    ),
    "Nasdaq": company(NVDA)[["Close", "Volume"]]
    .set_axis(["Close/Last", "Volume"], axis=1)
    .assign(**{"Close/Last": lambda rows: rows["Close/Last"].map("${:.2f}".format)})
    .set_axis(pd.Index(DAYS.strftime("%m/%d/2024").str.replace("/0", "/3"), name="Date"))
    .iloc[:0],
    "a Series called Close": company(NVDA)["Close"],
    "a Series without a name": company(NVDA)["Close"].rename(None),
    "a Series from levels": FIELDS_FIRST[("Close", "NVDA")],
    "one level with one ticker": FIELDS_FIRST.xs("NVDA", axis=1, level=1, drop_level=False),
}
del ONE["Nasdaq"]


@pytest.mark.parametrize("case", ONE)
def test_one_companys_table_takes_its_name_from_the_cell(case):
    """A table without tickers belongs to the only one of the list."""
    close = read_prices(ONE[case], tickers=["NVDA"]).close
    name = "NVDA.US" if "ticker in" in case else "NVDA"
    assert close.to_dict("list") == {name: NVDA}


def test_one_companys_table_beside_several_tickers_is_refused():
    """Nobody says whose it is; the fix cures."""
    prices = company(NVDA)
    for tickers in (["NVDA", "MSFT"], []):
        with pytest.raises(InputError, match="one company") as caught:
            read_prices(prices, tickers=tickers)
        fix = caught.value.fix.removeprefix("say whose they are: ")
        cured = eval(fix)
        assert read_prices(cured, tickers=tickers).close.to_dict("list") == {"NVDA": NVDA}


def test_tickers_called_like_fields_stay_tickers():
    """LOW, OPEN and LAST are companies, where they stand in the list or among others."""
    frame = EXPECTED.set_axis(["LOW", "OPEN"], axis=1)
    assert list(read_prices(frame, tickers=["LOW"]).close) == ["LOW", "OPEN"]
    frame = EXPECTED.assign(LAST=1.5)
    assert list(read_prices(frame, tickers=["NVDA"]).close) == ["NVDA", "MSFT", "LAST"]
    frame = EXPECTED.set_axis(["CLOSE", "VOLUME"], axis=1)
    assert list(read_prices(frame, tickers=["CLOSE"]).close) == ["CLOSE", "VOLUME"]
    levels = pd.concat({"Close": EXPECTED.set_axis(["LOW", "OPEN"], axis=1)}, axis=1)
    assert list(read_prices(levels, tickers=["LOW"]).close) == ["LOW", "OPEN"]


# --- which price ---


SPLIT = [100.0, 102.0, 51.5, 52.0]
ADJUSTED = [50.0, 51.0, 51.5, 52.0]
BOTH = company(SPLIT, **{"Adj Close": ADJUSTED})
CHOICES = {
    "one company": (BOTH, ["NVDA"]),
    "a dict": ({"NVDA": BOTH}, ["NVDA", "MSFT"]),
    "levels": (pd.concat({"NVDA": BOTH}, axis=1), ["NVDA", "MSFT"]),
    "fields first": (pd.concat({"NVDA": BOTH}, axis=1).swaplevel(axis=1), ["NVDA"]),
    "long": (BOTH.assign(ticker="NVDA").reset_index(), ["NVDA"]),
    "a file's header": (saved(pd.concat({"NVDA": BOTH}, axis=1).swaplevel(axis=1)), ["NVDA"]),
}


@pytest.mark.parametrize("case", CHOICES)
def test_adjusted_prices_come_first(case):
    """A split is no crash: the adjusted close is read, and the table's caption says so."""
    given, tickers = CHOICES[case]
    read = read_prices(given, tickers=tickers)
    assert read.close["NVDA"].tolist() == ADJUSTED
    assert (read.price_column, read.is_adjusted) == ("Adj Close", True)


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize("name", ["Close", "close", " CLOSE "])
def test_price_column_chooses(case, name):
    """In any case; the table can say that these are not adjusted."""
    given, tickers = CHOICES[case]
    read = read_prices(given, tickers=tickers, price_column=name)
    assert read.close["NVDA"].tolist() == SPLIT
    assert (read.price_column, read.is_adjusted) == ("Close", False)
    assert read_prices(given, tickers=tickers, price_column="Low").close["NVDA"].iloc[0] == 99.7


@pytest.mark.parametrize("case", CHOICES)
def test_an_unknown_price_column_names_those_that_exist(case):
    """The fix is one of them."""
    given, tickers = CHOICES[case]
    with pytest.raises(InputError, match="no column 'Clsoe'") as caught:
        read_prices(given, tickers=tickers, price_column="Clsoe")
    assert all(repr(name) in caught.value.message for name in ("Close", "Adj Close", "Low"))
    assert caught.value.fix == "price_column='Close'"
    assert read_prices(given, tickers=tickers, price_column="Close").close["NVDA"].tolist() == SPLIT


def test_a_table_without_closes_asks_which_column():
    """Opens are no closes; with price_column they are read."""
    table = company(NVDA)[["Open", "High"]]
    levels = pd.concat({"NVDA": table}, axis=1)
    for given in (table, levels, levels.swaplevel(axis=1)):
        with pytest.raises(InputError, match="none of them a known price") as caught:
            read_prices(given, tickers=["NVDA"])
        assert caught.value.fix == "price_column='Open'"
        read = read_prices(given, tickers=["NVDA"], price_column="Open")
        assert read.close["NVDA"].tolist() == [value - 0.1 for value in NVDA]
    other = EXPECTED[["NVDA"]].set_axis(["signal"], axis=1).assign(beta=1.0)
    read = read_prices(other, tickers=["NVDA"], price_column="signal")
    assert read.close.to_dict("list") == {"NVDA": NVDA}


def test_a_wide_frame_has_no_price_column():
    """Each of its columns is a ticker."""
    with pytest.raises(InputError, match="each column is a ticker") as caught:
        read_prices(EXPECTED, price_column="Close")
    assert caught.value.fix == "leave price_column out"
    assert read_prices(EXPECTED).price_column is None


@pytest.mark.parametrize(
    "name",
    [
        *("Adj Close", "adjclose", "adj_close", "adjusted_close", "Adj. Close", "adjClose"),
        *("5. adjusted close", "Adj Close**", "Adjusted", "close_adj", "Adj Close (USD)"),
    ],
)
def test_every_spelling_of_adjusted_counts(name):
    """One name in the spellings of Yahoo, Alpha Vantage, Tiingo, EODHD and R."""
    read = read_prices(company(SPLIT, **{name: ADJUSTED}), tickers=["NVDA"])
    assert (read.close["NVDA"].tolist(), read.is_adjusted) == (ADJUSTED, True)


@pytest.mark.parametrize(
    "name", ["PX_LAST", "close_price", "Last", "value", "Price", "settle", "NAV", "Schlusskurs"]
)
def test_other_names_of_prices_are_known(name):
    """Long and alone; nothing says whether they are adjusted."""
    table = company(NVDA).rename(columns={"Close": name})[["Open", name]]
    read = read_prices(table, tickers=["NVDA"])
    assert (read.close["NVDA"].tolist(), read.is_adjusted) == (NVDA, None)
    long = EXPECTED.reset_index().melt(id_vars="Date", var_name="ticker", value_name=name)
    assert read_prices(long).close["MSFT"].tolist() == MSFT


def test_an_empty_adjusted_column_is_passed_over():
    """A column of holes is no choice."""
    read = read_prices(company(NVDA, **{"Adj Close": np.nan}), tickers=["NVDA"])
    assert read.close["NVDA"].tolist() == NVDA


def test_different_columns_of_a_dict_are_said():
    """One table has adjusted prices and the other has none: a note names both."""
    read = read_prices({"NVDA": BOTH, "MSFT": company(MSFT)}, tickers=["NVDA", "MSFT"])
    assert read.close["NVDA"].tolist() == ADJUSTED
    assert (read.price_column, read.is_adjusted) == (None, None)
    assert (
        "The prices are from different columns: Adj Close for NVDA; Close for MSFT." in read.notes
    )


def test_returns_are_found_by_their_name():
    """A column of returns comes before the prices beside it."""
    table = company(NVDA, ret=[0.1, 0.2, 0.3, 0.4])
    assert read_prices(table, tickers=["NVDA"], returns=True).close["NVDA"].tolist()[0] == 0.1
    long = table.assign(symbol="NVDA").reset_index()
    assert read_prices(long, returns=True).close["NVDA"].tolist()[0] == 0.1


# --- names of the data ---


def test_the_names_of_the_data_are_listed():
    """Columns, levels, keys and the column of tickers, without reading a price."""
    assert list_names(EXPECTED) == ("NVDA", "MSFT")
    for shape in (FIELDS_FIRST, TICKERS_FIRST, LONG, LONG.reset_index(), SHAPES["pyarrow"]):
        assert {"NVDA", "MSFT"} <= set(list_names(shape))
    assert list_names({"EUR_USD": 1}) == ("EUR_USD",)
    assert list_names(lambda tickers: None) == list_names(None) == ()


def test_the_page_lists_every_name():
    """docs/metrics.md has the table of names that are known."""
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    names = [
        *(price_fields.ADJUSTED, price_fields.AS_TRADED, price_fields.RETURNS),
        *(price_fields.VOLUMES, price_fields.TICKER_NAMES, price_fields.OTHER_TICKER_NAMES),
    ]
    for one in names:
        assert ", ".join(f"`{name}`" for name in one) in page


def test_nothing_that_was_given_is_changed():
    """Reading leaves the user's own objects as they are."""
    for case, shape in SHAPES.items():
        if isinstance(shape, pd.DataFrame | pd.Series):
            before = shape.copy(deep=True)
            read_prices(shape, tickers=["NVDA", "MSFT"])
            assert shape.equals(before), case
